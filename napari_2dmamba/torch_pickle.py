"""Read files written by ``torch.save`` as data: nothing in them is ever called.

A pickle is a program for a small stack machine. Running it with Python's own unpickler lets
the file call what it names. Here the program is read by a machine of our own that knows only
the instructions ``torch.save`` writes, turns class names into inert `Record` objects, and
builds nothing but tensors, numbers, text and plain containers. Any other name, any other
instruction, any call of something else is refused before it could have a meaning.
"""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from napari_2dmamba.errors import CheckpointError

LARGEST_PICKLE = 32 * 2**20
"""Bytes of the pickled structure; that of a network with a thousand layers is 2 MB."""

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

_PUBLISHED_NAMES = {
    "argparse.Namespace",
    "models.MambaMIL_2D.MambaMIL_2D",
    "models.mamba_simple.Mamba",
    "models.mamba_simple.MambaBlock",
    "models.mamba_simple.MambaConfig",
    "models.mamba_simple.RMSNorm",
    "models.mamba_simple.ResidualBlock",
    "models.pscan_2d.selective_scan_fn",
}
"""Names of the published 2DMambaMIL that become inert records."""

_BESIDE_WEIGHTS = {
    "_codecs.encode",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "yacs.config.CfgNode",
}
"""Names of what training programs store beside weights: settings, and histories of losses.

They become records too, also where the file asks for a call: what it would call with is dropped.
"""


@dataclass(eq=False)
class Record:
    """An object of the file: its class by name, and its attributes as plain data."""

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A class or function the file refers to; never looked up, never called."""

    path: str


@dataclass(frozen=True)
class _Storage:
    values: torch.Tensor


_MARK = object()


def read_torch_file(path: Path, *, data: bool = True) -> Any:
    """Return what a ``torch.save`` file (zip layout, torch 1.6 and newer) holds.

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
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, data)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path.name} is damaged or cut short ({error}); copy or download it again"
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
            f"read ({type(error).__name__}: {error}); nothing in it was run"
        ) from error


def _read_archive(archive: zipfile.ZipFile, path: Path, with_data: bool) -> Any:
    entries = archive.infolist()
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

    def storage(kind: str, key: str, count: int) -> _Storage:
        dtype = _DTYPES[kind]
        size = archive.getinfo(f"{root}data/{key}").file_size
        if size != count * dtype.itemsize:
            raise ValueError(f"tensor data {key!r} has {size} bytes for {count} values")
        if not with_data or size == 0:
            return _Storage(torch.empty(count, dtype=dtype, device=None if with_data else "meta"))
        data = bytearray(archive.read(f"{root}data/{key}"))
        return _Storage(torch.frombuffer(data, dtype=dtype))

    return _Machine(archive.read(pickles[0]), storage, path.name).run()


class _Machine:
    """The stack machine of a pickle, restricted to what builds data."""

    def __init__(
        self, program: bytes, storage: Callable[[str, str, int], _Storage], name: str
    ) -> None:
        self._program = program
        self._storage = storage
        self._name = name
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, _Storage] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(self._program)):
            if opcode.name == "STOP":
                return self._stack.pop()
            step = getattr(self, f"_op_{opcode.name.lower()}", None)
            if step is None:
                raise self._refused(f"uses the pickle instruction {opcode.name}")
            step(argument)
        raise EOFError("the pickled structure has no end")

    def _refused(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._name} is refused: it {what}, which a checkpoint has no need for and which "
            "could run code; nothing in it was run. Ask for a safetensors file, or for a "
            "state_dict saved with torch.save(model.state_dict(), ...)"
        )

    def _pop_to_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise ValueError("a list has an end but no start")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    # constants
    _op_binunicode = _op_short_binunicode = _op_binunicode8 = _push
    _op_binint = _op_binint1 = _op_binint2 = _op_long1 = _op_binfloat = _push
    _op_binbytes = _op_short_binbytes = _push

    def _op_proto(self, version: int) -> None:
        if not 2 <= version <= 4:
            raise self._refused(f"uses pickle protocol {version}")

    def _op_frame(self, length: int) -> None:
        """Framing only helps a streaming reader."""

    def _op_none(self, _: None) -> None:
        self._push(None)

    def _op_newtrue(self, _: None) -> None:
        self._push(True)

    def _op_newfalse(self, _: None) -> None:
        self._push(False)

    # containers
    def _op_mark(self, _: None) -> None:
        self._push(_MARK)

    def _op_empty_dict(self, _: None) -> None:
        self._push({})

    def _op_empty_list(self, _: None) -> None:
        self._push([])

    def _op_empty_set(self, _: None) -> None:
        self._push(set())

    def _op_empty_tuple(self, _: None) -> None:
        self._push(())

    def _op_tuple(self, _: None) -> None:
        self._push(tuple(self._pop_to_mark()))

    def _op_tuple1(self, _: None) -> None:
        self._push((self._stack.pop(),))

    def _op_tuple2(self, _: None) -> None:
        last = self._stack.pop()
        self._push((self._stack.pop(), last))

    def _op_tuple3(self, _: None) -> None:
        last, middle = self._stack.pop(), self._stack.pop()
        self._push((self._stack.pop(), middle, last))

    def _op_append(self, _: None) -> None:
        value = self._stack.pop()
        self._target(list).append(value)

    def _op_appends(self, _: None) -> None:
        values = self._pop_to_mark()
        self._target(list).extend(values)

    def _op_setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._mapping()[self._plain_key(key)] = value

    def _op_setitems(self, _: None) -> None:
        items = self._pop_to_mark()
        target = self._mapping()
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._plain_key(key)] = value

    def _mapping(self) -> Any:
        target = self._stack[-1]
        if isinstance(target, Record) and target.kind in _BESIDE_WEIGHTS:
            return target.state  # settings are a kind of dict
        return self._target(dict)

    def _target(self, kind: type) -> Any:
        target = self._stack[-1]
        if type(target) is not kind:
            raise self._refused(f"fills a {type(target).__name__} as if it were a {kind.__name__}")
        return target

    @staticmethod
    def _plain_key(key: Any) -> Any:
        if not isinstance(key, str | int | float | bool | None):
            raise ValueError(f"a {type(key).__name__} is used as a key")
        return key

    # memory
    def _op_binput(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _op_long_binput = _op_binput

    def _op_memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_binget(self, index: int) -> None:
        self._push(self._memo[index])

    _op_long_binget = _op_binget

    # names and objects
    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name_found(module, name)

    def _op_stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise self._refused("names a class by something that is not text")
        self._name_found(module, name)

    def _name_found(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if len(path) > 200:
            raise self._refused(f"refers to a name of {len(path)} characters")
        known = (
            path in _BUILDERS
            or path in _PUBLISHED_NAMES
            or path in _BESIDE_WEIGHTS
            or (module == "torch" and name in _DTYPES)
            or (module.startswith("torch.nn.modules.") and name.isidentifier())
        )
        if not known:
            raise self._refused(f"refers to {path!r}")
        self._push(_Name(path))

    def _op_binpersid(self, _: None) -> None:
        match self._stack.pop():
            case ("storage", _Name(path=path), str(key), str(), int(count)) if count >= 0:
                if key not in self._storages:
                    self._storages[key] = self._storage(path.removeprefix("torch."), key, count)
                self._push(self._storages[key])
            case _:
                raise self._refused("refers to outside data in an unknown way")

    def _op_newobj(self, _: None) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if not isinstance(kind, _Name) or arguments != () or kind.path in _BUILDERS:
            raise self._refused("makes an object in an unknown way")
        self._push(Record(kind.path))

    def _op_reduce(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if isinstance(function, _Name) and function.path in _BESIDE_WEIGHTS:
            self._push(Record(function.path))
            return
        if not (isinstance(function, _Name) and function.path in _BUILDERS):
            what = function.path if isinstance(function, _Name) else type(function).__name__
            raise self._refused(f"asks to call {what!r}")
        if not isinstance(arguments, tuple):
            raise self._refused(f"calls {function.path!r} with something that is not a tuple")
        self._push(_BUILDERS[function.path](*arguments))

    def _op_build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Record) and isinstance(state, dict):
            target.state.update(state)
        elif isinstance(target, Record) and target.kind in _BESIDE_WEIGHTS:
            return  # the numbers of an array that is no weight
        elif not (type(target) is dict and isinstance(state, dict)):
            # A state_dict carries `_metadata` this way, which nothing here needs.
            raise self._refused(f"sets the state of a {type(target).__name__}")


def _tensor(
    storage: _Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> torch.Tensor:
    """Return a view of a storage; only shapes that lie in the storage and do not overlap."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor has no data, or a shape that does not fit its strides")
    if min((offset, *size, *stride), default=0) < 0:
        raise ValueError("a tensor has a negative size, stride or offset")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(storage.values) or count > len(storage.values)):
        raise ValueError(f"a tensor of shape {size} does not lie within its data")
    return torch.as_strided(storage.values, size, stride, offset).contiguous()


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise ValueError("a parameter holds no tensor")
    return data


def _dict(items: Any = ()) -> dict[Any, Any]:
    if items != ():
        raise ValueError("an ordered dict is given items in an unknown way")
    return {}


def _set(items: list[Any]) -> set[Any]:
    if not all(isinstance(item, str | int | float) for item in items):
        raise ValueError("a set holds something that is neither text nor a number")
    return set(items)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "collections.OrderedDict": _dict,
    "__builtin__.set": _set,
    "builtins.set": _set,
}


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
                    tensors[prefix + key] = value
        for key, child in module.state.get("_modules", {}).items():
            if isinstance(child, Record):
                walk(child, f"{prefix}{key}.")

    walk(record, "")
    return tensors
