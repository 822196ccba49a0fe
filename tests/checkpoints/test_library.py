import json
import threading
from pathlib import Path

import pytest

from napari_2dmamba.checkpoints.library import (
    FOLDER_VARIABLE,
    CheckpointLibrary,
    default_folder,
    source_of,
)
from napari_2dmamba.errors import CheckpointError


def test_what_is_put_on_the_list_is_there_next_time(tmp_path: Path) -> None:
    library = CheckpointLibrary(tmp_path)
    folder, file = str(tmp_path / "models"), str(tmp_path / "models" / "a.pt")
    assert library.add(folder) == folder
    library.add(folder)
    library.add("hub:owner/name@v1")
    library.set_note(file, "  the good one \n")
    again = CheckpointLibrary(tmp_path)
    assert again.sources == (folder, "hub:owner/name@v1")
    assert again.note(file) == "the good one"
    assert again.note(folder) == ""
    again.set_note(file, "")
    again.remove_source("hub:owner/name@v1")
    last = CheckpointLibrary(tmp_path)
    assert (last.sources, last.note(file)) == ((folder,), "")


def test_removing_leaves_the_disk_alone(tmp_path: Path) -> None:
    file = tmp_path / "models" / "a.pt"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    library = CheckpointLibrary(tmp_path / "list")
    library.add(file.parent)
    library.add(file)
    library.remove(str(file))
    assert file.read_bytes() == b"weights"
    assert library.sources == (str(file.parent),)
    assert library.removed == {str(file)}
    library.add(file.parent)  # adding its folder again brings it back
    assert library.removed == frozenset()
    library.remove(str(file))
    library.restore()
    assert CheckpointLibrary(tmp_path / "list").removed == frozenset()


DAMAGED = [
    b"", b"{", b"[]", b"null", b"\xff\x00", b'{"format": 1}', b'{"format": 2, "sources": []}',
    b'{"format": 1, "sources": [1], "removed": [], "notes": {}}',
    b'{"format": 1, "sources": [], "removed": [], "notes": []}',
    b'{"format": 1, "sources": [], "removed": [], "notes": {"a": 1}}',
    b'{"format":' + b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_list_is_kept_aside_and_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoints.json"
    path.write_bytes(content)
    library = CheckpointLibrary(tmp_path)
    assert library.sources == ()
    assert "is damaged" in library.remark
    (kept,) = tmp_path.glob("checkpoints.damaged-*.json")
    assert kept.name in library.remark
    assert kept.read_bytes() == content
    library.add(tmp_path)
    assert CheckpointLibrary(tmp_path).sources == (str(tmp_path),)
    assert kept.read_bytes() == content


def test_what_a_later_version_wrote_besides_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.json"
    path.write_text(json.dumps(
        {"format": 1, "sources": [], "removed": [], "notes": {}, "tags": {"a": ["b"]}}
    ))  # fmt: skip
    CheckpointLibrary(tmp_path).add("hub:a/b")
    assert json.loads(path.read_text())["tags"] == {"a": ["b"]}


def test_two_windows_do_not_lose_each_others_notes(tmp_path: Path) -> None:
    def write(name: str) -> None:
        library = CheckpointLibrary(tmp_path)
        for number in range(20):
            library.set_note(f"{name}{number}", "noted")

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(json.loads((tmp_path / "checkpoints.json").read_text())["notes"]) == 40


def test_a_list_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    library = CheckpointLibrary(tmp_path / "a file")
    with pytest.raises(CheckpointError, match=r"list of checkpoints .* cannot be changed"):
        library.add(tmp_path)


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "a/", "/b", "a/b@", "https://huggingface.co/a/b", "a/..", "a b/c"]
)
def test_what_is_no_name_of_a_repository_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="no name of a Hugging Face repository"):
        source_of(f"hub:{name}")


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_of("hub:a/b@refs/pr/1") == "hub:a/b@refs/pr/1"
    monkeypatch.chdir(tmp_path)
    assert source_of("models/../x") == str(tmp_path / "x")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    assert default_folder() == tmp_path / "elsewhere"
