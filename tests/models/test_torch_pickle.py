"""Hostile and damaged files: each is refused, and nothing in them runs."""

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.torch_pickle import Record, module_tensors, read_torch_file
from napari_2dmamba.models.checkpoint import load_checkpoint
from tests.models.golden_cases import HERE

RAN: list[Any] = []


def leave_a_trace(*arguments: Any) -> None:
    RAN.append(arguments)


WATCHED = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"}
watching = False


def _audit(event: str, arguments: tuple) -> None:
    if watching and event in WATCHED:
        RAN.append((event, arguments))


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path) -> Iterator[None]:
    """The interpreter itself reports every process and every unpickled name."""
    global watching
    RAN.clear()
    watching = True
    yield
    watching = False
    assert RAN == []
    assert not (tmp_path / "owned").exists()


def test_the_watch_sees() -> None:
    pickle.loads(pickle.dumps(Call(leave_a_trace, 1)))
    os.system("true")
    assert [entry[0] for entry in RAN] == ["pickle.find_class", 1, "os.system"]
    RAN.clear()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def torch_zip(path: Path, program: bytes, data: dict[str, bytes] | None = None, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "little")
        for key, value in (data or {}).items():
            archive.writestr(f"a/data/{key}", value)
    return path


def attacks(marker: Path) -> dict[str, bytes]:
    touch = f"touch {marker}"
    tensor_with_call = pickle.dumps({"w": Call(leave_a_trace, "x")}, protocol=2)
    return {
        "os.system": pickle.dumps(Call(os.system, touch), protocol=2),
        "deep inside": tensor_with_call,
        "eval": pickle.dumps(Call(eval, f"open({str(marker)!r}, 'w')"), protocol=2),
        "exec": pickle.dumps(Call(exec, f"open({str(marker)!r}, 'w')"), protocol=2),
        "open": pickle.dumps(Call(open, str(marker), "w"), protocol=2),
        "getattr": pickle.dumps(Call(getattr, "x", "upper"), protocol=2),
        "import": pickle.dumps(Call(__import__, "antigravity"), protocol=2),
        "protocol 4": pickle.dumps(Call(os.system, touch), protocol=4),
        "protocol 0": pickle.dumps(Call(os.system, touch), protocol=0),
        "dotted name": b"\x80\x04\x8c\x05torch\x8c\x10storage.os.systemX\x93.",
        "nested global": b"\x80\x02ctorch.nn.modules.module\n__builtins__.eval\n"
        b"(X\x01\x00\x00\x001tR.",
        "module function": b"\x80\x02ctorch.nn.modules.module\nregister_module_forward_hook\n"
        b"X\x01\x00\x00\x001\x85R.",
        "inst": b"\x80\x02(X\x02\x00\x00\x00idios\nsystem\n.",
        "obj": b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00ido.",
        "build on a class": b"\x80\x02ctorch.nn.modules.linear\nLinear\n}X\x08\x00\x00\x00__call__"
        b"cbuiltins\neval\nsb.",
        "call of a record": b"\x80\x02cmodels.pscan_2d\nselective_scan_fn\n)R.",
        "extension": b"\x80\x02\x82\x01.",
        "reduce of text": b"\x80\x02X\x02\x00\x00\x00id)R.",
        "newobj with arguments": b"\x80\x02cargparse\nNamespace\nX\x01\x00\x00\x00a\x85\x81.",
        "persistent id of text": b"\x80\x02X\x01\x00\x00\x00aQ.",
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_attack_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "model.pt", attacks(tmp_path / "owned")[name])
    with pytest.raises(CheckpointError, match=r"model\.pt .*nothing in it was run"):
        load_checkpoint(path)
    # and bare, in the layout of torch before 1.6
    path.write_bytes(attacks(tmp_path / "owned")[name])
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        load_checkpoint(path)


def test_attack_in_a_real_checkpoint_is_refused(tmp_path: Path) -> None:
    """A whole published model whose last object calls something."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(HERE / "cls_small.full_model.pt") as good:
        program = good.read("cls_small.full_model/data.pkl")
        assert program.endswith(b"b.")
        bad = program[:-1] + b"cos\nsystem\nX\x02\x00\x00\x00id\x85R."
        with zipfile.ZipFile(path, "w") as archive:
            for entry in good.infolist():
                archive.writestr(
                    entry, bad if entry.filename.endswith("data.pkl") else good.read(entry)
                )
    with pytest.raises(CheckpointError, match=r"refers to 'os\.system'"):
        load_checkpoint(path)


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def tensor_program(count: int, offset: int, size: tuple, stride: tuple) -> bytes:
    """A dict with one tensor."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
        + number(count) + b"tQ" + number(offset) + numbers(size) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def test_a_tensor_is_read(tmp_path: Path) -> None:
    data = {"0": struct.pack("<6f", *range(6))}
    path = torch_zip(tmp_path / "t.pt", tensor_program(6, 1, (2, 2), (1, 2)), data)
    assert torch.equal(read_torch_file(path)["w"], torch.tensor([[1.0, 3.0], [2.0, 4.0]]))


@pytest.mark.parametrize(
    ("count", "offset", "size", "stride"),
    [
        (6, 0, (10**12,), (0,)), (6, 0, (7,), (1,)), (6, 5, (2,), (1,)), (6, -1, (2,), (1,)),
        (6, 0, (2,), (-1,)), (10**12, 0, (2,), (1,)), (6, 0, (2, 2), (1,)), (7, 0, (2,), (1,)),
        (6, 0, (-1,), (1,)), (6, 0, (2**62, 2**62), (0, 0)),
    ],
)  # fmt: skip
def test_a_tensor_beyond_its_data_is_refused(
    count: int, offset: int, size: tuple, stride: tuple, tmp_path: Path
) -> None:
    data = {"0": struct.pack("<6f", *range(6))}
    path = torch_zip(tmp_path / "t.pt", tensor_program(count, offset, size, stride), data)
    with pytest.raises(CheckpointError, match=r"t\.pt"):
        read_torch_file(path)


def test_zip_bombs_are_refused_before_they_open(tmp_path: Path) -> None:
    path = torch_zip(
        tmp_path / "bomb.pt", b"\x80\x02}.", {"0": bytes(50_000_000)},
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="compressed zip archive"):
        read_torch_file(path)


def test_endless_structures_are_refused(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert read_torch_file(torch_zip(tmp_path / "deep.pt", deep)) is not None
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint(tmp_path / "deep.pt")
    far = b"\x80\x02}r\xff\xff\xff\x7f."  # a memo index that makes Python's unpickler allocate
    assert read_torch_file(torch_zip(tmp_path / "far.pt", far)) == {}
    huge = b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."
    with pytest.raises(CheckpointError):
        read_torch_file(torch_zip(tmp_path / "huge.pt", huge))
    loop = Record("m")
    loop.state["_modules"] = {"a": loop}
    with pytest.raises(ValueError, match="or of itself"):
        module_tensors(loop)


def test_many_paths_to_one_module_are_refused(tmp_path: Path) -> None:
    """Thirty levels of two references each would be a billion modules."""
    below = Record("m")
    for _ in range(30):
        below = Record("m", {"_modules": {"a": below, "b": below}})
    with pytest.raises(ValueError, match="twice"):
        module_tensors(below)


@pytest.mark.parametrize("keep", [0, 1, 30, 1000, 9000, 60_000, 81_000])
def test_a_file_cut_short_is_refused(keep: int, tmp_path: Path) -> None:
    whole = (HERE / "cls_small.full_model.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[:keep])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        load_checkpoint(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray((HERE / "cls_small.full_model.pt").read_bytes())
    start = whole.find(b"\x80\x02cmodels")
    position = data.draw(st.integers(0, 9000)) + (start if data.draw(st.booleans()) else 0)
    whole[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt"
    path.write_bytes(whole)
    with contextlib.suppress(CheckpointError):
        read_torch_file(path)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60), st.integers(0, 9000))
def test_any_program_is_refused_or_data(tmp_path: Path, noise: bytes, cut: int) -> None:
    with zipfile.ZipFile(HERE / "cls_small.full_model.pt") as good:
        program = good.read("cls_small.full_model/data.pkl")
    path = torch_zip(tmp_path / "noise.pt", program[:cut] + noise + program[cut:])
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    saved = {
        "epoch": 3,
        "lr": 1e-4,
        "state_dict": collections.OrderedDict(
            a=torch.arange(6.0).reshape(2, 3).t(),
            b=torch.tensor([True, False]),
            c=torch.ones(2, 2, dtype=torch.bfloat16),
            d=torch.tensor(7, dtype=torch.int64),
            e=torch.nn.Parameter(torch.zeros(0)),
        ),
        "seen": [None, (1, 2), {"x": "é"}, -(2**40)],
    }
    torch.save(saved, tmp_path / "s.pt")
    found = read_torch_file(tmp_path / "s.pt")
    assert found["epoch"] == 3
    assert found["seen"] == [None, (1, 2), {"x": "é"}, -(2**40)]
    for key, value in saved["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value.detach())
        assert found["state_dict"][key].dtype == value.dtype


def test_same_weights_as_torch_reads(tmp_path: Path) -> None:
    path = HERE / "cls_small.state_dict_cudarun.pt"
    theirs = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    ours = read_torch_file(path)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
