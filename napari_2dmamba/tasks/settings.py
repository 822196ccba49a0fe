"""How a table of labelled slides is read and split."""

from dataclasses import dataclass

from napari_2dmamba.settings import setting

KINDS = ("classification", "ordinal", "survival")


@dataclass(frozen=True)
class TableSettings:
    """How a table of labelled slides is read."""

    features: str | None = setting(
        None,
        "Folder of the feature files, where the table names slides only; folders h5_files and "
        "pt_files in it are searched too.",
        label="Feature folder",
    )
    kind: str = setting(
        "auto",
        "What is learnt; auto takes survival where the table has times and no labels, ordinal "
        "where its layout is known to be (PANDA), else classification.",
        choices=("auto", *KINDS),
    )
    label_column: str | None = setting(
        None, "Column of the label, where it is not called label.", advanced=True
    )
    patient_column: str | None = setting(
        None, "Column of the patient, where it is not called patient.", advanced=True
    )


@dataclass(frozen=True)
class SplitSettings:
    """How slides are parted, always whole patients at a time."""

    method: str = setting(
        "auto",
        "kfold: every patient is tested once; held-out: one test part; all: no test part; auto "
        "takes the table's own fold or split column, else kfold.",
        choices=("auto", "kfold", "held-out", "all"),
    )
    folds: int = setting(5, "Parts of the k-fold split.", minimum=2, maximum=100)
    repeats: int = setting(1, "How often the k-fold split is drawn anew.", minimum=1, maximum=100)
    test_share: float = setting(
        0.2, "Share of the test part of a held-out split.", minimum=0.01, maximum=0.9
    )
    validation_share: float = setting(
        0.2,
        "Share of what is not tested that chooses the epoch and takes no part in fitting; with 0 "
        "the last epoch is kept.",
        minimum=0.0,
        maximum=0.5,
    )
    split_seed: int = setting(0, "Seed of the split.", label="Seed of split", minimum=0)
