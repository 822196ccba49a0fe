import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from napari_2dmamba.checkpoints import hub as ours
from napari_2dmamba.checkpoints.index import SummaryCache, index
from napari_2dmamba.checkpoints.summary import summarise
from napari_2dmamba.errors import Cancelled, CheckpointError
from napari_2dmamba.models import load_checkpoint
from tests import warm
from tests.checkpoints.hub_server import Hub, running_hub
from tests.checkpoints.material import own
from tests.models.golden_cases import HERE

hub_library = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

LARGE = {"feature_size": 3000, "n_outputs": 2, "hidden": 256}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of this test, and a cache of its own."""
    from huggingface_hub import constants

    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE",
            server.address + "/{repo_id}/resolve/{revision}/{filename}",
        )  # fmt: skip
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        model = own(tmp_path / "m.safetensors", config=LARGE).read_bytes()
        server.repositories["lab/models"] = {
            "README.md": b"about",
            "fold 1/model.safetensors": model,
            "bare.safetensors": (HERE / "cls_small.safetensors").read_bytes(),
            "broken.safetensors": b"\xff" * 64,
            "pytorch_model.bin": b"never",
            "model.pt": b"never",
        }
        yield server


def listed(name: str = "hub:lab/models", cache: SummaryCache | None = None):
    return {one.name: one for one in index([name], cache=cache)}


def test_a_repository_is_listed_by_its_headers(server: Hub, tmp_path: Path) -> None:
    found = listed()
    assert set(found) == {"model.safetensors", "bare.safetensors", "broken.safetensors"}
    model = found["model.safetensors"]
    assert model.location == "hub:lab/models:fold 1/model.safetensors"
    local = summarise(tmp_path / "m.safetensors")
    assert model.to_dict() | {"location": ""} == local.to_dict() | {"location": ""}
    bare = found["bare.safetensors"]
    assert (bare.architecture, bare.feature_size) == ("2dmamba", 64)
    assert bare.created.startswith("2026-03-02")
    assert "broken.safetensors of lab/models is damaged" in found["broken.safetensors"].problem
    assert "\n" not in found["broken.safetensors"].problem
    # the header, not the weights, and nothing of other kinds
    assert model.size > 3_000_000
    assert all(sent <= 100_001 for _, path, sent in server.requests if "/resolve/" in path)
    assert not any(path.endswith((".pt", ".bin", ".md")) for _, path, _ in server.requests)


def test_known_files_are_not_asked_for_again(server: Hub) -> None:
    cache = SummaryCache()
    first = listed(cache=cache)
    del server.requests[:]
    again = listed(cache=cache)
    assert again["model.safetensors"] == first["model.safetensors"]
    assert sum("/resolve/" in path for _, path, _ in server.requests) <= 1  # the broken one


def test_a_revision(server: Hub) -> None:
    assert "model.safetensors" in listed("hub:lab/models@v1")
    (one,) = listed("hub:lab/models@nowhere").values()
    assert "has no such revision" in one.problem


def test_fetching_and_then_staying_offline(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[int, int, str]] = []
    location = listed()["model.safetensors"].location
    del server.requests[:]
    path = ours.fetch(location, lambda *report: reports.append(report))
    size = (tmp_path / "m.safetensors").stat().st_size
    assert path.read_bytes() == (tmp_path / "m.safetensors").read_bytes()
    assert load_checkpoint(path).header.architecture == "abmil"
    assert reports[-1][:2] == (size, size)
    assert "fetching fold 1/model.safetensors" in reports[-1][2]
    assert server.fetched == ["model.safetensors"]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    del server.requests[:]
    found = listed()
    assert set(found) == {"model.safetensors"}  # what was fetched is all there is
    assert found["model.safetensors"].location == location
    assert found["model.safetensors"].feature_size == 3000
    assert ours.fetch(location) == path
    with pytest.raises(CheckpointError, match="we are offline"):
        ours.fetch("hub:lab/models:bare.safetensors")
    (absent,) = listed("hub:lab/others").values()
    assert "is not on this machine, and we are offline" in absent.problem
    assert server.requests == []


def test_without_an_answer_what_was_fetched_is_listed(server: Hub) -> None:
    ours.fetch("hub:lab/models:bare.safetensors")
    server.shutdown()
    server.server_close()
    assert set(listed()) == {"bare.safetensors"}
    (one,) = listed("hub:lab/others").values()
    assert "Hugging Face cannot be reached" in one.problem
    with pytest.raises(CheckpointError, match="cannot be reached"):
        ours.fetch("hub:lab/models:fold 1/model.safetensors")


def test_stopping_a_download(server: Hub) -> None:
    location = "hub:lab/models:fold 1/model.safetensors"
    with pytest.raises(Cancelled):
        ours.fetch(location, should_stop=lambda: True)
    assert load_file(ours.fetch(location))  # and it can be had afterwards


def test_what_the_hub_refuses_is_one_sentence(server: Hub) -> None:
    (absent,) = listed("hub:lab/none").values()
    assert "shows no repository 'lab/none'" in absent.problem
    with pytest.raises(CheckpointError, match="shows no repository"):
        ours.fetch("hub:lab/none:a.safetensors")
    server.repositories["lab/empty"] = {"model.pt": b"x"}
    (empty,) = listed("hub:lab/empty").values()
    assert "holds no safetensors file" in empty.problem
    server.gated.add("lab/models")
    for one in listed().values():
        assert "accept its licence" in one.problem
        assert "\n" not in one.problem
    with pytest.raises(CheckpointError, match="accept its licence"):
        ours.fetch("hub:lab/models:bare.safetensors")


@pytest.mark.parametrize("file", ["model.pt", "pytorch_model.bin", ""])
def test_nothing_but_safetensors_is_fetched(server: Hub, file: str) -> None:
    with pytest.raises(CheckpointError, match="no safetensors file"):
        ours.fetch(f"hub:lab/models:{file}")
    assert server.requests == []


def test_the_command_line_reads_a_repository(server: Hub, tmp_path: Path) -> None:
    """A process of its own, which is told of the server by the library's own variable."""
    environment = {
        **os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home"),
        "NAPARI_2DMAMBA_DATA": str(tmp_path / "list"),
    }  # fmt: skip
    command = ["-m", "napari_2dmamba.cli", "checkpoints", "hub:lab/models", "--json"]
    done = warm.python(*command, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["architecture"] for row in rows} == {"abmil", "2dmamba", None}
