import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_2dmamba.compare import (
    Contender,
    FigureSettings,
    compare,
    contenders_of,
    write_figure,
)
from napari_2dmamba.compare.contender import check_contenders, refuse_strangers
from napari_2dmamba.compare.cost import peak_of_forward
from napari_2dmamba.errors import Cancelled, CheckpointError, GridError, UserError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.models import Aggregator, ModelSettings, load_checkpoint
from napari_2dmamba.models.architecture import Architecture, ArchitectureConfig, ModelOutput
from napari_2dmamba.models.header import CheckpointHeader
from napari_2dmamba.pipeline import run
from napari_2dmamba.sample import demo_rivals
from napari_2dmamba.slide import open_slide
from tests.compare.cases import header_of
from tests.material import shared
from tests.tiny import PATCH, write_checkpoint, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "tiny.tif")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return (
        write_checkpoint(folder / "first.safetensors"),
        write_checkpoint(folder / "second.safetensors", task="survival", seed=1),
    )


def test_each_model_says_what_it_says_alone(slide: Path, files: tuple[Path, Path]) -> None:
    said: list[str] = []
    contenders = [Contender("A", files[0]), Contender("B", files[1])]
    found = compare(slide, contenders, on_progress=lambda d, t, message: said.append(message))
    alone = [run(slide, path) for path in files]
    for entry, one in zip(found.entries, alone, strict=True):
        np.testing.assert_array_equal(entry.prediction.logits, one.prediction.logits)
        np.testing.assert_array_equal(entry.grid_map.values, one.attention_map.values)
        assert entry.grid_map.origin == one.attention_map.origin
        assert entry.score_meaning == one.prediction.attention_meaning
        assert entry.seconds > 0
        assert entry.peak_bytes is not None
        assert entry.record.model.checkpoint_sha256 == one.record.model.checkpoint_sha256
    assert found.titles == ("A", "B")
    assert found.entries[0].grid_map.name == "A"
    assert [row["task"] for row in found.predictions_table()] == ["classification", "survival"]
    assert said.count("finding tissue") == 1
    assert [s for s in said if s.startswith("running")] == ["running A", "running B"]


def test_several_maps_of_one_model(slide: Path, files: tuple[Path, Path]) -> None:
    bag = run(slide, files[0]).bag
    maps = ("score", "gradient-x-input", "provenance")
    x, y = (int(v) + 3 for v in bag.coords[17])
    found = compare(slide, [Contender("A", files[0], maps=maps)], features=bag, at=(x, y))
    assert found.titles == ("A", "A: gradient-x-input", "A: provenance")
    assert found.query == 17
    assert len(found.predictions_table()) == 1
    shapes = {(e.grid_map.values.shape, e.grid_map.origin) for e in found.entries}
    assert len(shapes) == 1
    assert found.entries[1].grid_map.signed
    provenance = found.entries[2]
    assert "provenance" in provenance.title
    cell = found.cell_at(x, y)
    assert np.isfinite(provenance.grid_map.values[cell])
    with pytest.raises(GridError, match="no patch lies at x 0, y 0"):
        compare(slide, [Contender("A", files[0], maps=maps)], features=bag, at=(0, 0))


def test_a_contender_has_settings_of_its_own(slide: Path, files: tuple[Path, Path]) -> None:
    bag = run(slide, files[0]).bag
    here = np.arange(len(bag)) != 40  # a hole, for the tissue is a rectangle
    bag = dataclasses.replace(bag, features=bag.features[here], coords=bag.coords[here])
    found = compare(
        slide,
        [
            Contender("all cells", files[0], ModelSettings(attention="all")),
            Contender("tissue only", files[0], ModelSettings(attention="tissue")),
        ],
        features=bag,
    )
    masses = [entry.prediction.background_mass for entry in found.entries]
    assert masses[0] > 0
    assert masses[1] == 0


def test_labels_come_from_the_models(files: tuple[Path, Path], tmp_path: Path) -> None:
    made = contenders_of([(files[0], None), (files[1], None)])
    assert [c.label for c in made] == ["2DMambaMIL (first)", "2DMambaMIL (second)"]
    made = contenders_of([(files[0], None), (files[1], "mine")], ("score",))
    assert [c.label for c in made] == ["2DMambaMIL (first)", "mine"]
    assert [c.label for c in contenders_of([(files[0], None)])] == ["2DMambaMIL"]
    folds = [write_checkpoint(tmp_path / fold / "best.safetensors") for fold in ("a", "b")]
    made = contenders_of([(path, None) for path in folds])
    assert [c.label for c in made] == ["2DMambaMIL (a/best)", "2DMambaMIL (b/best)"]


def test_the_demo_models_are_told_apart_by_their_kind() -> None:
    assert [c.label for c in contenders_of([(path, None) for path in demo_rivals()])] == [
        "ABMIL", "CLAM-SB", "TransMIL", "MambaMIL", "SRMambaMIL", "2DMambaMIL",
    ]  # fmt: skip


def test_six_models_on_a_real_slide(tmp_path: Path) -> None:
    path = shared("slides/he/metaplasia-HE.svs")
    with open_slide(path) as slide:
        found = compare(slide, contenders_of([(demo, None) for demo in demo_rivals()]))
        (figure,) = write_figure(found, slide, [tmp_path / "figure.pdf"], FigureSettings(dpi=60))
    assert figure.stat().st_size > 20_000
    assert len(found) == 6
    assert len(found.bag) > 300
    for entry in found.entries:
        assert np.isfinite(entry.scores).all()
        assert np.isfinite(entry.grid_map.values).sum() == len(found.bag)
    correlation = found.rank_correlation()
    assert correlation[0, 1] > 0.5  # two attention models of the same features
    assert correlation.max() == pytest.approx(1)


def test_models_of_other_features_are_refused_before_anything_runs(
    slide: Path, files: tuple[Path, Path]
) -> None:
    first = load_checkpoint(files[0])
    other = Aggregator(first.model, dataclasses.replace(first.header, encoder="uni"))
    said: list[str] = []
    with pytest.raises(CheckpointError) as refusal:
        compare(
            slide,
            [Contender("mine", first), Contender("theirs", other)],
            on_progress=lambda d, t, message: said.append(message),
        )
    assert str(refusal.value) == (
        "theirs was trained with encoder uni, and mine with stain-texture-v1, so they "
        "cannot run on the same patches; compare models that were trained on the same features"
    )
    assert said == ["loading the checkpoints"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"config": {"feature_size": 4, "n_outputs": 2}},
            "feature size 4, and A with 3",
        ),
        ({"patch_size": 256}, "patch size 256 px, and A with 100 px"),
        ({"mpp": 1.0}, "resolution 1.0 µm/px, and A with 0.5 µm/px"),
    ],
)
def test_in_what_two_models_differ(changes: dict, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"^B was trained with {words},"):
        refuse_strangers(["A", "B"], [header_of(), header_of(**changes)])


def test_what_is_not_stated_is_not_compared() -> None:
    silent = header_of(encoder=None, mpp=None)
    near = header_of(mpp=0.52)
    assert refuse_strangers(["A", "B"], [header_of(), near]) == ()
    assert refuse_strangers(["A", "B"], [silent, near]) == (
        "A does not state its encoder, so it was not compared",
        "A does not state its resolution, so it was not compared",
    )
    with pytest.raises(CheckpointError, match="C was trained with encoder x, and B with"):
        refuse_strangers(["A", "B", "C"], [silent, near, header_of(encoder="x")])


@pytest.mark.parametrize(
    ("contenders", "words"),
    [
        ([], "no model was chosen"),
        ([Contender("A", Path("a"))], "1 map was chosen, and a comparison shows 2 to 6"),
        ([Contender(str(n), Path("a")) for n in range(7)], "7 maps were chosen"),
        ([Contender("A", Path("a")), Contender("A", Path("b"))], "two models have the label 'A'"),
        ([Contender("A", Path("a")), Contender(" ", Path("b"))], "empty label"),
        ([Contender("A", Path("a"), maps=("score", "nose"))], "there is no map 'nose'"),
        ([Contender("A", Path("a"), maps=("score", "score"))], "asked twice for the map 'score'"),
    ],
)
def test_what_is_no_comparison_is_refused(contenders: list[Contender], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_contenders(contenders)


def test_an_error_says_whose_it_is(slide: Path, files: tuple[Path, Path]) -> None:
    bag = run(slide, files[0]).bag
    wrong = dataclasses.replace(bag, patch_size=PATCH // 2)
    with pytest.raises(CheckpointError, match=r"^A: the model was trained with patch size 64 px"):
        compare(slide, [Contender("A", files[0]), Contender("B", files[1])], features=wrong)


def test_it_can_be_stopped_between_models(slide: Path, files: tuple[Path, Path]) -> None:
    bag = run(slide, files[0]).bag
    said: list[str] = []
    with pytest.raises(Cancelled):
        compare(
            slide,
            [Contender("A", files[0]), Contender("B", files[1])],
            features=bag,
            on_progress=lambda done, total, message: said.append(message),
            should_stop=lambda: "running A" in said,
        )
    assert "running B" not in said


class Known(Architecture):
    """Makes tensors of known size."""

    name = "known"
    title = "Known"
    config_class = ArchitectureConfig
    score_meaning = "nothing"

    def __init__(self) -> None:
        super().__init__()
        self.config = ArchitectureConfig(3, 2)

    def forward(self, features, cells=None, canvas=None, *, stages=None):
        view = features[1:]  # a view takes nothing
        big = torch.empty(1000, 1000)  # 4 MB
        doubled = big * 2  # 8 MB at once
        del big
        small = doubled[:10].clone()  # 4.04 MB
        del doubled
        return ModelOutput(small[0, :2], view[:, 0])


def test_memory_is_what_the_tensors_of_a_pass_take_at_once() -> None:
    header = CheckpointHeader(
        "known", {"feature_size": 3, "n_outputs": 2}, "classification", ("a", "b")
    )
    coords = np.array([[0, 0], [10, 0], [20, 0]])
    bag = FeatureBag(np.zeros((3, 3), np.float32), coords, 10)
    model = Aggregator(Known(), header)
    peak, how = peak_of_forward(model.prepare(bag, ModelSettings(device="cpu")))
    assert peak == 8_000_000
    assert "tensors held at once" in how
