import json
import os
import shutil
import struct
import sys
import zipfile
from collections import deque
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_2dmamba.checkpoints.index import SummaryCache, index
from napari_2dmamba.checkpoints.summary import CheckpointSummary, summarise, validation_score
from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.models import MissingSettingsError, load_checkpoint
from napari_2dmamba.models.header import METADATA_KEY
from napari_2dmamba.models.registry import architectures
from tests import warm
from tests.checkpoints.material import BAD, GOOD, install_documented_example, mixed_folder, own
from tests.material import shared
from tests.models.golden_cases import HERE


def listed(*sources: Path | str, **options) -> dict[str, CheckpointSummary]:
    return {one.name: one for one in index([str(source) for source in sources], **options)}


def test_a_folder_of_everything(tmp_path: Path) -> None:
    found = listed(mixed_folder(tmp_path))
    assert set(found) == GOOD | set(BAD)
    assert {name for name, one in found.items() if not one.problem} == GOOD
    for name, says in BAD.items():
        assert says in found[name].problem
        assert name in found[name].problem
        assert "\n" not in found[name].problem
    assert not (tmp_path / "owned").exists()

    good = found["good.safetensors"]
    assert good.location == str(tmp_path / "good.safetensors")
    assert good.size == (tmp_path / "good.safetensors").stat().st_size
    assert (good.architecture, good.title, good.stated) == ("abmil", "ABMIL", True)
    assert (good.task, good.class_names) == ("classification", ("normal", "tumour"))
    assert (good.encoder, good.feature_size, good.patch_size, good.mpp) == (
        "stain-texture-v1", 6, 256, 0.5,
    )  # fmt: skip
    assert good.score == ("AUROC", 0.9)
    assert good.created == "2026-05-04T10:00:00+00:00"
    assert good.missing == ()

    whole = found["cls_small.full_model.pt"]
    assert (whole.architecture, whole.feature_size, whole.n_outputs) == ("2dmamba", 64, 3)
    assert (whole.patch_size, whole.task, whole.stated) == (512, "classification", False)
    assert whole.missing == ("class_names", "encoder")
    assert found["bare.safetensors"].n_outputs == 3
    assert found["bare.safetensors"].task is None


@pytest.mark.parametrize("name", ["model2d", "baselines", "train2d", "vmamba2d"])
def test_published_files_are_what_loading_them_finds(name: str) -> None:
    """Told from shapes alone, the same as with all their weights."""
    folder = shared(f"golden/{name}")
    count = 0
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".pt", ".safetensors"):
            continue
        summary = summarise(path)
        with pytest.raises(CheckpointError) as refused:  # none of them states its settings
            load_checkpoint(path)
        if isinstance(refused.value, MissingSettingsError):
            assert not summary.problem
            assert summary.missing == refused.value.missing
        else:
            assert summary.problem == str(refused.value)
        count += 1
    assert count


def test_shapes_give_the_configuration_of_the_loaded_model() -> None:
    path = HERE / "cls_small.full_model.pt"
    loaded = load_checkpoint(path, class_names=("a", "b", "c"), encoder=None)
    assert summarise(path).config == vars(loaded.config)


def test_tensor_data_is_never_read(tmp_path: Path) -> None:
    """The data of one tensor is spoilt: reading it fails its checksum, reading its shape not."""
    path = tmp_path / "spoilt.pt"
    shutil.copy(HERE / "cls_small.full_model.pt", path)
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        assert "/data/" in entry.filename
    content = bytearray(path.read_bytes())
    names = struct.unpack("<HH", content[entry.header_offset + 26 : entry.header_offset + 30])
    start = entry.header_offset + 30 + sum(names)
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(Exception, match="damaged"):
        load_checkpoint(path, class_names=("a", "b", "c"), encoder=None)
    assert summarise(path).architecture == "2dmamba"
    assert not summarise(path).problem


def test_a_huge_file_costs_its_header_only(tmp_path: Path) -> None:
    """20 GB that take no room on the disk: reading them would take minutes."""
    path = tmp_path / "huge.safetensors"
    rows = 20 * 10**9 // 4 // 64
    header = {"feature.0.weight": {"dtype": "F32", "shape": [rows, 64],
                                   "data_offsets": [0, rows * 256]}}  # fmt: skip
    shapes = {"feature.0.bias": [rows], "attention.0.weight": [8, rows], "attention.2.weight": [1]}
    header |= {"attention.2.weight": {"dtype": "F32", "shape": shapes["attention.2.weight"],
                                      "data_offsets": [rows * 256, rows * 256 + 4]}}  # fmt: skip
    text = json.dumps(header).encode()
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + rows * 256 + 4)
    except OSError:
        pytest.skip("this file system keeps no sparse files")
    before = _bytes_read()
    summary = summarise(path)
    assert "ABMIL but lacks" in summary.problem
    assert summary.size > 19 * 10**9
    if before is not None:
        assert _bytes_read() - before < 2**20  # type: ignore[operator]


def _bytes_read() -> int | None:
    try:
        return int(Path("/proc/self/io").read_text().split()[1])
    except OSError:
        return None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"encoder": ["uni"]}, "encoder"), ({"patch_size": "256"}, "patch_size"),
        ({"training": []}, "training"), ({"mpp": {}}, "mpp"), ({"created": 1}, "created"),
        ({"config": {"n_outputs": 2}}, "feature_size"),
        ({"config": {"feature_size": "x", "n_outputs": 2}}, "feature_size"),
        ({"architecture": "theirs"}, "'theirs', which is not known here"),
    ],
)  # fmt: skip
def test_a_header_with_nonsense_is_a_problem_of_that_file(
    changes: dict, says: str, tmp_path: Path
) -> None:
    path = own(tmp_path / "m.safetensors")
    text = json.loads(_metadata(path))
    text.update(changes)
    save_file({"w": torch.zeros(1)}, path, metadata={METADATA_KEY: json.dumps(text)})
    summary = summarise(path)
    assert says in summary.problem
    assert "m.safetensors" in summary.problem


def _metadata(path: Path) -> str:
    from napari_2dmamba.models.header import read_safetensors_header

    return read_safetensors_header(path)[0][METADATA_KEY]


def test_deep_nesting_is_a_problem_of_that_file(tmp_path: Path) -> None:
    path = own(tmp_path / "m.safetensors")
    text = _metadata(path)
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    start = text.index('"training": {')
    text = f'{text[:start]}"training": {deep}, "notes": ""}}'
    save_file({"w": torch.zeros(1)}, path, metadata={METADATA_KEY: text})
    assert "damaged" in summarise(path).problem


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    found = list(index([str(tmp_path / "gone"), str(tmp_path / "gone.safetensors")]))
    assert [one.location for one in found] == [
        str(tmp_path / "gone"), str(tmp_path / "gone.safetensors"),
    ]  # fmt: skip
    assert all("No such file" in one.problem for one in found)


def test_each_file_once_and_removed_ones_not(tmp_path: Path) -> None:
    first, second = own(tmp_path / "a" / "one.safetensors"), own(tmp_path / "a" / "two.safetensors")
    sources = [str(tmp_path), str(tmp_path / "a"), str(first)]
    assert sorted(one.name for one in index(sources)) == ["one.safetensors", "two.safetensors"]
    assert [one.name for one in index(sources, removed={str(second)})] == ["one.safetensors"]
    assert second.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_lead_round_end(tmp_path: Path) -> None:
    own(tmp_path / "a" / "one.safetensors")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "nowhere.pt").symlink_to(tmp_path / "absent")
    assert len(list(index([str(tmp_path)]))) == 1


def test_known_files_are_not_opened_again(tmp_path: Path) -> None:
    path = own(tmp_path / "m" / "a.safetensors")
    kept = tmp_path / "cache.json"
    (first,) = index([str(path)], cache=SummaryCache(kept))
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))  # zeros that claim to be the same file
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (again,) = index([str(path)], cache=SummaryCache(kept))
    assert again == first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (changed,) = index([str(path)], cache=SummaryCache(kept))
    assert "not a checkpoint" in changed.problem


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"made_by": 1}', b"\xff\xfe"])
def test_a_damaged_cache_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = own(tmp_path / "m" / "a.safetensors")
    kept = tmp_path / "cache.json"
    kept.write_bytes(content)
    (found,) = index([str(path)], cache=SummaryCache(kept))
    assert found.architecture == "abmil"
    assert json.loads(kept.read_text())["known"]


def test_thousands_of_files_can_be_stopped(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.pt").write_bytes(b"not one")
    found, reports = [], []

    def stop() -> bool:
        return len(found) >= 100

    def hear(done: int, total: int, message: str) -> None:
        reports.append((done, total))

    searching = index([str(tmp_path)], on_progress=hear, should_stop=stop)
    with pytest.raises(Cancelled):
        deque(map(found.append, searching), maxlen=0)
    assert len(found) == 100
    assert (99, 2000) in reports


def test_scores_of_other_layouts() -> None:
    assert validation_score({"val": {"acc": 0.5}}) == ("accuracy", 0.5)
    assert validation_score({"held_out": {"c_index": 0.7, "loss": 1}}) == ("C-index", 0.7)
    assert validation_score({"validation": {"auroc": None, "loss": 0.2}}) == ("loss", 0.2)
    both = {"held_out": {"auroc": 0.6}, "best": {"validation": {"auroc": 0.8}}}
    assert validation_score(both) == ("AUROC", 0.8)
    assert validation_score({"auroc": 0.9, "validation": {"auroc": True}}) is None
    assert validation_score([]) is None


def test_an_architecture_of_another_package_is_listed_and_run(tmp_path: Path) -> None:
    """A package that is really installed: what the documentation shows, and its metadata."""
    site = install_documented_example(tmp_path / "site")
    make = """
import sys
from pathlib import Path
from tests.checkpoints.material import own
own(Path(sys.argv[1]), architecture="mean")
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[2])]),
        "NAPARI_2DMAMBA_DATA": str(tmp_path / "list"),
    }

    def python(*arguments: str) -> str:
        done = warm.python(*arguments, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = tmp_path / "theirs.safetensors"
    python("-c", make, str(path))
    listing = python("-m", "napari_2dmamba.cli", "checkpoints", str(path), "--json")
    assert json.loads(listing)["title"] == "Mean pooling"
    known = python("-m", "napari_2dmamba.cli", "checkpoints", "--architectures", "--json")
    entries = {entry["name"]: entry for entry in map(json.loads, known.splitlines())}
    assert entries["mean"]["package"] == "mean_pooling"
    assert list(entries) == [*architectures(), "mean"]
    # here, where the package is not installed
    assert "'mean', which is not known here" in summarise(path).problem
