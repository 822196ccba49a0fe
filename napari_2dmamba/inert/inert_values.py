"""What people keep beside weights, as data: numpy scalars, devices, counters, paths, settings.

Each entry of `BUILDERS` stands for a class or function of that name in a pickle and makes numbers,
text or plain containers of what the file would have passed to it. Nothing is imported or called.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(eq=False)
class Record:
    """An object of the file: its class by name, and what it holds as plain data.

    Attributes
    ----------
    kind
        Name of the class.
    state
        Its attributes.
    items, parts
        What it holds as a dict, and as a list.
    """

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    parts: list[Any] = field(default_factory=list)


_OF_NUMPY = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64,
    "i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "u1": torch.uint8, "b1": torch.bool, "?": torch.bool,
}  # fmt: skip


@dataclass(eq=False)
class DType:
    """A numpy dtype by its code."""

    code: str

    @property
    def torch(self) -> torch.dtype | None:
        """The same type of torch; None where it has none."""
        return _OF_NUMPY.get(self.code.lstrip("<|="))

    def build(self, state: Any) -> None:
        """Take the byte order of its pickled state."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.code = f">{self.code.lstrip('<|=>')}"


@dataclass(eq=False)
class Array:
    """A numpy array; ``value`` is a tensor where torch has its type, else a `Record`."""

    value: Any = None

    def build(self, state: Any) -> None:
        """Take the values of its pickled state."""
        match state:
            case (int(), tuple(shape), DType() as dtype, fortran, (bytes() | bytearray()) as data):
                self.value = array(bytes(data), dtype, shape, "F" if fortran else "C")
            case (int(), tuple(), DType(), _, list()):  # of Python objects
                self.value = Record("numpy.ndarray")
            case _:
                raise ValueError("a numpy array is made in an unknown way")


def array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    """Return values of a numpy array as a tensor, or as a `Record` where torch has no such type."""
    if not isinstance(dtype, DType) or not isinstance(data, bytes | bytearray):
        raise ValueError("a numpy array is made in an unknown way")
    if dtype.torch is None:
        return Record("numpy.ndarray")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("a numpy array has an unknown shape")
    if math.prod(shape) * dtype.torch.itemsize != len(data):
        raise ValueError(f"a numpy array has {len(data)} bytes for the shape {shape}")
    if not data:
        return torch.empty(shape, dtype=dtype.torch)
    values = torch.frombuffer(bytearray(data), dtype=dtype.torch)
    if order == "F":
        return values.reshape(shape[::-1]).permute(*reversed(range(len(shape)))).contiguous()
    return values.reshape(shape)


def _scalar(dtype: Any, data: Any = None) -> Any:
    if not isinstance(data, bytes | bytearray):
        return None  # of Python objects
    made = array(data, dtype, ())
    return made.item() if isinstance(made, torch.Tensor) else None


def _dtype(code: Any, *_: Any) -> DType:
    if not isinstance(code, str) or len(code) > 100:
        raise ValueError("a numpy type has no name")
    return DType(code)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise ValueError("bytes are made of something that is not text")
    return text.encode(encoding)


def _bytes(*arguments: Any) -> bytes:
    match arguments:
        case ():
            return b""
        case ((bytes() | bytearray()) as data,):
            return bytes(data)
        case (str(text), str(encoding)):
            return _encoded(text, encoding)
    raise ValueError("bytes are made in an unknown way")


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """``OrderedDict(pairs)``, ``Counter(dict)``, ``defaultdict(factory, dict)``."""
    found: dict[Any, Any] = {}
    for given in arguments:
        if isinstance(given, dict):
            found.update(given)
        elif isinstance(given, list | tuple):
            for pair in given:
                if not (isinstance(pair, list | tuple) and len(pair) == 2):
                    raise ValueError("a dict is given items in an unknown way")
                found[_key(pair[0])] = pair[1]
    return found


def _key(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool | bytes | None):
        raise ValueError(f"a {type(value).__name__} is used as a key")
    return value


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise ValueError("a set is made of something that is no list")
    return {_key(item) for item in items}


def _list(items: Any = (), *_: Any) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise ValueError("a list is made of something that is no list")
    return list(items)


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(_list(items))


def _joined(separator: str) -> Callable[..., str]:
    def text(*parts: Any) -> str:
        if not all(isinstance(part, str | int) for part in parts):
            raise ValueError("a path or device is made of something that is not text")
        return separator.join(map(str, parts))

    return text


def _nothing(*_: Any) -> None:
    """Of what is made nothing is kept."""


def _record(kind: str) -> Callable[..., Record]:
    def make(*_: Any) -> Record:
        return Record(kind)

    return make


def _reconstructed(kind: Any, *_: Any) -> Record:
    """``copyreg._reconstructor``: an object without its attributes, which a BUILD brings."""
    return Record(getattr(kind, "path", "object"))


_ANY_RECORD = (
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta",
    "datetime.timezone", "uuid.UUID", "uuid.SafeUUID", "decimal.Decimal", "fractions.Fraction",
    "builtins.complex", "__builtin__.complex", "builtins.slice", "builtins.range",
    "__builtin__.slice", "__builtin__.xrange", "types.SimpleNamespace",
    "zoneinfo.ZoneInfo._unpickle", "torch._C.Generator", "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__bit_generator_ctor",
    "torch.version.TorchVersion", "torch.torch_version.TorchVersion",
)  # fmt: skip

BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _mapping,
    "collections.Counter": _mapping,
    "collections.deque": _list,
    "builtins.dict": _mapping,
    "__builtin__.dict": _mapping,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.frozenset": _set,
    "__builtin__.frozenset": _set,
    "builtins.list": _list,
    "__builtin__.list": _list,
    "builtins.tuple": _tuple,
    "__builtin__.tuple": _tuple,
    "builtins.bytearray": _bytes,
    "__builtin__.bytearray": _bytes,
    "__builtin__.bytes": _bytes,
    "builtins.bytes": _bytes,
    "_codecs.encode": _encoded,
    "copy_reg._reconstructor": _reconstructed,
    "copyreg._reconstructor": _reconstructed,
    "torch.device": _joined(":"),
    "torch.Size": _tuple,
    "torch.serialization._get_layout": _joined(""),
    "numpy.dtype": _dtype,
    "numpy.ndarray": _nothing,
    **{
        f"{package}.{function}": builder
        for package in ("numpy._core", "numpy.core")
        for function, builder in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", lambda *_: Array()),
            ("numeric._frombuffer", array),
        )
    },
    **{
        f"{module}.{kind}": _joined("/")
        for module in ("pathlib", "pathlib._local")
        for kind in (
            "Path",
            "PosixPath",
            "WindowsPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
        )
    },
    **{kind: _record(kind) for kind in _ANY_RECORD},
}
"""By the name in the file."""
