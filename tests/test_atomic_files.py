"""Files are whole or not there, whatever library writes them, and what kills left is swept."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from napari_2dmamba.atomic_files import atomic_write, process_mark, shortened, sweep
from napari_2dmamba.errors import ExportError, FeatureError

KILLED = """
import os, sys
from pathlib import Path
from napari_2dmamba.atomic_files import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    print(part.name, flush=True)
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), 9)
    sys.stdin.read()
"""


def test_the_draft_of_a_killed_process_is_swept_at_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    subprocess.run([sys.executable, "-c", KILLED, str(target), "kill"], check=False)
    left = [one.name for one in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".2dm-")
    mark = tmp_path / left[0].replace(".part.", ".x.").replace(".2dm-", ".at-work-2dm-")
    mark.touch()
    (tmp_path / ".somebody.part.else").touch()
    with atomic_write(tmp_path / "b.txt") as part:
        part.write_text("b")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".somebody.part.else", "b.txt"]


def test_the_draft_of_a_living_process_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.h5"), "live"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        draft = tmp_path / writer.stdout.readline().decode().strip()
        sweep(tmp_path)
        assert draft.is_file()
        writer.stdin.close()
    assert not draft.exists()
    assert (tmp_path / "a.h5").read_bytes() == b"half"


def test_of_other_machines_nothing_is_swept_and_of_old_versions_what_is_old(tmp_path) -> None:
    other = tmp_path / ".2dm-00000000-1-aaaaaaaa.part.x"
    fresh, old = tmp_path / ".0123abcd.part.x", tmp_path / ".0123abce.part.x"
    for file in (other, fresh, old):
        file.touch()
    os.utime(old, (0, time.time() - 2 * 86_400))
    sweep(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([other.name, fresh.name])
    assert process_mark().endswith(f"-{os.getpid()}")


FULL_DISK = """
import resource, sys
from pathlib import Path
import h5py, numpy as np
from napari_2dmamba.errors import FeatureError
from napari_2dmamba.features.bag import FeatureBag
from napari_2dmamba.features.files import write_features

bag = FeatureBag(np.random.default_rng(0).random((4000, 64), dtype=np.float32),
                 np.arange(8000).reshape(4000, 2), 256)
for limit in (0, 100, 2000, 20000, 500000, 1000000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_features(bag, Path(sys.argv[1]))
    except FeatureError as error:
        print(error)
"""


def test_a_full_disk_under_hdf5_names_the_file_and_not_the_draft(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(target)], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stderr
    for line in lines:
        assert line.startswith(f"{target} cannot be written (")
        assert ".part." not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Can't decrement id ref count (unable to close file, errno = 28, error "
                     "message = 'No space left on device')"),
        ValueError("I/O error: No space left on device (os error 28)"),
        OSError("[Errno 28] Can't write data, file name = '.abc.part.a.h5'"),
    ],
)  # fmt: skip
def test_what_libraries_say_of_a_full_disk_is_one_sentence(tmp_path: Path, error) -> None:
    with (
        pytest.raises(FeatureError, match=r"a\.h5 cannot be written \(No space left on device\)"),
        atomic_write(tmp_path / "a.h5", FeatureError),
    ):
        raise error


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^mine$"), atomic_write(tmp_path / "a"):
        raise ValueError("mine")
    with pytest.raises(ExportError, match=r"^theirs$"), atomic_write(tmp_path / "a"):
        raise ExportError("theirs")


def test_names_fit_the_file_system(tmp_path: Path) -> None:
    name = "µ" * 125 + ".csv"  # 254 bytes
    with atomic_write(tmp_path / name) as part:
        assert part.suffix == ".csv"
        part.write_text("x")
    assert (tmp_path / name).read_text() == "x"
    assert len(shortened("µ" * 200, 99).encode()) <= 99
    assert shortened("µ" * 200, 99) != shortened("µ" * 201, 99)
    assert shortened("short", 99) == "short"


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes")
def test_what_torch_writes_onto_a_full_disk_is_the_systems_error(tmp_path: Path) -> None:
    code = f"""
import resource
import torch
from pathlib import Path
from napari_2dmamba.atomic_files import atomic_write, torch_save
from napari_2dmamba.errors import ExportError
folder = Path({str(tmp_path)!r})
for most in (0, 200, 20_000, 70_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        with atomic_write(folder / f"{{most}}.pt") as part:
            torch_save({{"a": torch.zeros(20_000), "b": [1]}}, part)
    except ExportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    for most, line in zip((0, 200, 20_000, 70_000), said, strict=True):
        assert f"{most}.pt cannot be written (File too large)" in line
    assert list(tmp_path.iterdir()) == []
