"""Train the checkpoint ``demo-real``: is a slide of the gastrointestinal tract?

An honest and harmless question about real tissue. The 44 slides are of a public atlas (Turkish
Pathology Atlas, MIT licence and CC-BY-4.0) and are not part of this repository: the folder given
to ``--atlas`` holds ``labels.csv`` with the columns slide, case, label_gi_tract, and ``features/``
as ``napari-2dmamba extract`` wrote them (embedded encoder, patches of 256 px at 0.5 µm/px).

``python sample_data/demo_real.py --atlas FOLDER --work RUN`` cross-validates by case, writes the
report into the folder RUN, and puts weights and card beside this script.
"""

import argparse
import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from napari_2dmamba.evaluation import EvaluationSettings, Predictions
from napari_2dmamba.evaluation.classification import classification_scores
from napari_2dmamba.models import Aggregator, load_checkpoint, save_checkpoint
from napari_2dmamba.tasks import SplitSettings, TableSettings, make_split, read_table
from napari_2dmamba.training import preset, train

NAME = "demo-real"
CLASS_NAMES = {"0": "other", "1": "gastrointestinal tract"}
INTENDED_USE = (
    "Demo on real tissue: tells slides of stomach and bowel from slides of other organs, learnt "
    "from 44 teaching slides of one atlas, to show how the software works. It says nothing about "
    "disease. Not for any medical use."
)
CONFIG = {"hidden": 32, "attention_hidden": 16}
"""A small ABMIL: 44 slides do not support more."""

EPOCHS, FURTHER_CASES = 20, 10


def expected_on(told: Predictions, cases: int, seed: int = 0) -> dict[str, list[float]]:
    """Return the middle 95 % of scores on so many further cases, drawn from those tested."""
    members = [np.flatnonzero(told.groups == group) for group in np.unique(told.groups)]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {"accuracy": [], "auroc": []}
    for _ in range(2000):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), cases)])
        scores = classification_scores(told.labels[rows], told.values[rows])
        for name, values in drawn.items():
            value = scores[name]
            if value is not None:
                values.append(value)
    return {
        name: [round(float(v), 3) for v in np.percentile(values, [2.5, 97.5])]
        for name, values in drawn.items()
    }


def main() -> None:
    """Train, test, and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--atlas", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    table = read_table(arguments.atlas / "labels.csv", TableSettings(label_column="label_gi_tract"))
    chosen = preset("recommended", "abmil", table.kind)
    chosen = dataclasses.replace(
        chosen, fit=dataclasses.replace(chosen.fit, epochs=EPOCHS, device="cpu")
    )
    run = train(
        table,
        make_split(table, SplitSettings()),
        out=arguments.work,
        architecture="abmil",
        use=chosen,
        config=CONFIG,
        class_names=CLASS_NAMES,
        intended_use=INTENDED_USE,
        scoring=EvaluationSettings(),
        on_epoch=lambda model, epoch: print(model, epoch, flush=True),
    )
    assert run.evaluation is not None
    assert run.final is not None
    print("\n".join(run.evaluation.lines()))
    expected = expected_on(run.evaluation.predictions, FURTHER_CASES)
    made = load_checkpoint(run.final)
    told = {**made.header.training, f"expected_on_{FURTHER_CASES}_further_cases": expected}
    header = dataclasses.replace(made.header, training=told)
    save_checkpoint(Aggregator(made.model, header), arguments.out / f"{NAME}.safetensors")
    card = arguments.out / f"{NAME}.md"
    shutil.copyfile(run.final.with_name("model-card.md"), card)
    words = "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in expected.items())
    with card.open("a", encoding="utf-8") as file:
        file.write(
            f"\nOn {FURTHER_CASES} further cases of the same atlas, 95 of 100 times: {words}. With "
            "so few cases that says little; it was written down before any was looked at.\n"
            "\nSlides: Turkish Pathology Atlas / patolojiatlasi.com, Serdar Balci and "
            "contributors (MIT licence; diagnoses and organs CC-BY-4.0). Weights: CC0.\n"
        )
    print(card.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
