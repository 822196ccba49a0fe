"""Read files written by ``torch.save`` as data: nothing in them is ever called.

The zip layout and that of torch before 1.6 differ in where the data of tensors lie; the structure
of both is a pickle, which `pickle_machine` follows.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.inert_values import Record
from napari_2dmamba.inert.limits import MOST_TENSORS, clipped
from napari_2dmamba.inert.pickle_machine import DTYPES, LARGEST_PICKLE, Machine, Storage

__all__ = ["Record", "module_tensors", "read_torch_file"]


def read_torch_file(path: Path, *, data: bool = True) -> Any:
    """Return what a ``torch.save`` file holds, in the zip layout or that of torch before 1.6.

    Parameters
    ----------
    path
        The file.
    data
        False reads the structure and nothing of the tensors, which then lie on torch's
        ``meta`` device: they have shapes and types, and no values.

    Returns
    -------
    Tensors on the CPU, numbers, text, lists, tuples, sets, dicts, and `Record` for objects.

    Raises
    ------
    CheckpointError
        When the file is damaged, or holds anything but weights and plain settings.
    """
    try:
        if zipfile.is_zipfile(path) or path.open("rb").read(2) == b"PK":
            with zipfile.ZipFile(path) as archive:
                return _read_archive(archive, path, data)
        with path.open("rb") as file:
            return _read_old_layout(file, path, data)
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise CheckpointError(
            f"{path.name} is damaged or cut short ({clipped(error)}); copy or download it again"
        ) from error
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
        AttributeError,
        StopIteration,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"{path.name} is not a checkpoint that torch.save wrote: its structure cannot be "
            f"read ({type(error).__name__}: {clipped(error)}); nothing in it was run"
        ) from error


def _read_archive(archive: zipfile.ZipFile, path: Path, with_data: bool) -> Any:
    entries = archive.infolist()
    if len(entries) > MOST_TENSORS + 100:
        raise CheckpointError(
            f"{path.name} is refused: it has {len(entries)} entries, and no checkpoint has more "
            f"than {MOST_TENSORS} tensors"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path.name} is a compressed zip archive; torch.save writes uncompressed ones, "
            "so this is not a checkpoint (unpack it if it is an archive with one inside)"
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(
            f"{path.name} claims to hold more bytes than the file has; it is refused as "
            "damaged or harmful, and nothing in it was run"
        )
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path.name} is a zip archive but no checkpoint: it has {len(pickles)} entries "
            "called data.pkl, and torch.save writes exactly one"
        )
    if pickles[0].file_size > LARGEST_PICKLE:
        raise CheckpointError(
            f"{path.name} holds a pickled structure of {pickles[0].file_size} bytes, more than "
            f"the {LARGEST_PICKLE} a checkpoint can need; it is refused"
        )
    root = pickles[0].filename.removesuffix("data.pkl")
    names = {entry.filename for entry in entries}
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError(f"{path.name} was saved on a big-endian machine, which is not read")

    def storage(kind: str, key: str, count: int) -> Storage:
        dtype = DTYPES[kind]
        size = archive.getinfo(f"{root}data/{key}").file_size
        if size != count * dtype.itemsize:
            raise ValueError(f"tensor data {key!r} has {size} bytes for {count} values")
        if not with_data or size == 0:
            return Storage(torch.empty(count, dtype=dtype, device=None if with_data else "meta"))
        data = bytearray(archive.read(f"{root}data/{key}"))
        return Storage(torch.frombuffer(data, dtype=dtype))

    program = io.BytesIO(archive.read(pickles[0]))
    return Machine(program, storage, path, budget=path.stat().st_size).run()


_OLD_MAGIC = 0x1950A86A20F9469CFC6C


def _read_old_layout(file: IO[bytes], path: Path, with_data: bool) -> Any:
    """Read a file of torch before 1.6: five pickles, and then the data of each storage."""
    size = path.stat().st_size
    if file.read(1) != b"\x80":
        raise CheckpointError(
            f"{path.name} is not a checkpoint: it is neither safetensors nor a file that "
            "torch.save wrote"
        )
    file.seek(0)
    wanted: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        dtype = DTYPES[kind]
        if count * dtype.itemsize > size:
            raise ValueError(f"tensor data {key!r} would have {count} values, more than the file")
        device = None if with_data else "meta"
        wanted[key] = Storage(torch.empty(count, dtype=dtype, device=device))
        if sum(one.values.nbytes for one in wanted.values()) > size:
            raise ValueError("its tensors together would be larger than the file")
        return wanted[key]

    def part() -> Any:
        return Machine(file, storage, path, budget=size).run()

    magic, version, system = part(), part(), part()
    if magic != _OLD_MAGIC or version != 1001 or not isinstance(system, dict):
        raise CheckpointError(
            f"{path.name} is not a checkpoint that torch.save wrote; nothing in it was run"
        )
    if system.get("little_endian") is not True:
        raise CheckpointError(f"{path.name} was saved on a big-endian machine, which is not read")
    content, keys = part(), part()
    if not isinstance(keys, list) or set(keys) != set(wanted) or len(keys) != len(wanted):
        raise ValueError("its list of tensor data is not that of its tensors")
    for key in keys if with_data else ():
        values = wanted[key].values
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(values.nbytes)
        if count != len(values) or len(data) != values.nbytes:
            raise EOFError(f"tensor data {key!r} are cut short")
        if data:
            values.copy_(torch.frombuffer(bytearray(data), dtype=values.dtype))
    return content


def module_tensors(record: Record) -> dict[str, torch.Tensor]:
    """Return the ``state_dict`` of a pickled ``torch.nn.Module``, without its class.

    Raises
    ------
    ValueError
        When a module occurs twice, which none of a published model does.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()

    def walk(module: Record, prefix: str) -> None:
        if id(module) in seen:
            raise ValueError("one of its modules is part of another twice, or of itself")
        seen.add(id(module))
        for group in ("_parameters", "_buffers"):
            for key, value in module.state.get(group, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{prefix}{key}"] = value
        for key, child in module.state.get("_modules", {}).items():
            if isinstance(child, Record):
                walk(child, f"{prefix}{key}.")

    walk(record, "")
    return tensors
