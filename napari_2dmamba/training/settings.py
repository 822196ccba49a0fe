"""How a model is fitted; presets by name are in `presets`."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting


@dataclass(frozen=True)
class FitSettings:
    """How an aggregator is fitted."""

    epochs: int = setting(50, "Times every bag is seen, at most.", minimum=1)
    learning_rate: float = setting(2e-4, "Step size at the start.", minimum=0.0)
    weight_decay: float = setting(1e-4, "Weight decay, on every weight.", minimum=0.0)
    optimiser: str = setting(
        "adamw", "Rule of the steps.", choices=("adamw", "adam", "sgd"), advanced=True
    )
    momentum: float = setting(0.9, "Momentum of sgd.", minimum=0.0, maximum=0.999, advanced=True)
    schedule: str = setting(
        "cosine",
        "Learning rate over the epochs: down to zero along a cosine, or constant.",
        choices=("cosine", "constant"),
    )
    accumulate: int = setting(
        8,
        "Bags whose gradients are averaged before a step; Cox's loss compares the patients of one "
        "such lot.",
        minimum=1,
    )
    patience: int = setting(
        10,
        "Stop after this many epochs without a lower validation loss.",
        minimum=0,
        zero="never",
    )
    clip: float = setting(
        1.0, "Largest norm of the gradient; larger ones are scaled down.", minimum=0.0,
        zero="off", advanced=True,
    )  # fmt: skip
    class_weights: bool = setting(True, "Let every class count alike, however many slides it has.")
    order: str = setting(
        "shuffled",
        "Order of the bags: drawn anew each epoch, as they stand, or drawn with replacement so "
        "that every class comes equally often.",
        choices=("shuffled", "given", "balanced"),
        advanced=True,
    )
    survival_loss: str = setting(
        "nll",
        "Survival: likelihood of discrete times, its cross entropy variant, or Cox's partial "
        "likelihood within a lot of accumulated bags.",
        choices=("nll", "ce", "cox"),
    )
    alpha: float = setting(
        0.0, "Survival: weight taken from censored patients.", minimum=0.0, maximum=1.0,
        advanced=True,
    )  # fmt: skip
    time_bins: int = setting(
        4, "Survival: bins of the time, quartiles of the events by default.", minimum=2, maximum=64
    )
    loss_divisor: float = setting(
        1.0,
        "Divide the loss by this before its gradient; published survival training divides by 32 "
        "and steps for each slide.",
        minimum=1e-6,
        advanced=True,
    )
    auxiliary_weight: float = setting(
        0.0,
        "Share of the loss that is the model's own second loss (patches of CLAM, critical patch "
        "of DSMIL, pseudo-bags of DTFD-MIL).",
        minimum=0.0,
        maximum=1.0,
        advanced=True,
    )
    keep_dt: bool = setting(
        True,
        "Start the step sizes of Mamba's scan between 0.001 and 0.1, as Mamba does; published 2D "
        "training overwrites that.",
        label="Keep Mamba's start",
        advanced=True,
    )
    precision: str = setting(
        "32",
        "Numbers of the computation: 32 bit, bfloat16 where that is safe (GPUs), or 64 bit.",
        choices=("32", "bf16", "64"),
        advanced=True,
    )
    deterministic: bool = setting(
        False,
        "Use only computations that give the same bits twice, where torch has them; slower.",
        advanced=True,
    )
    seed: int = setting(0, "Seed of first weights, order and dropout.", minimum=0)
    device: str = setting("auto", "Where it is fitted.", choices=("auto", "cuda", "cpu"))
    devices: int = setting(
        1,
        "GPUs that share the bags of a lot, or processes where the device is the CPU; one model "
        "comes of it, that of one device up to rounding.",
        minimum=1,
        maximum=64,
        advanced=True,
    )
    memory_mb: int = setting(
        1024,
        "MiB of features kept in memory, by all devices together; further bags are read from the "
        "disk each epoch.",
        unit="MiB",
        minimum=0,
        advanced=True,
    )
    prefetch: int = setting(
        2, "Bags read ahead while one is computed.", minimum=0, maximum=64, advanced=True
    )
