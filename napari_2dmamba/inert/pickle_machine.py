"""The stack machine of pickles, restricted to what builds data: nothing is ever called.

A pickle is a program for a small stack machine. Running it with Python's own unpickler lets
the file call what it names. This machine knows only the instructions ``torch.save`` writes, turns
objects into inert `Record`s, and builds nothing but tensors, numbers, text and plain containers.
What people keep beside weights (settings, numpy scalars, devices, paths) becomes text and numbers,
see `inert_values`. Any other instruction, any call of something else, and every name of a module
that acts on the machine is refused before it could have a meaning.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.inert_values import BUILDERS as _INERT
from napari_2dmamba.inert.inert_values import Array, DType, Record
from napari_2dmamba.inert.limits import MOST_TENSORS

LARGEST_PICKLE = 32 * 2**20
"""Bytes of the pickled structure; that of a network with a thousand layers is 2 MB."""

MOST_INSTRUCTIONS = 4_000_000
"""Instructions of the pickled structure that are followed, which takes seconds."""

DTYPES = {
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

_ACTING = frozenset(
    {
        "_posixsubprocess", "_winapi", "asyncio", "atexit", "bdb", "cffi", "code", "codeop",
        "commands", "concurrent", "ctypes", "dill", "cloudpickle", "fileinput", "ftplib",
        "functools",
        "gc", "glob", "http", "imp", "importlib", "inspect", "io", "joblib", "linecache", "marshal",
        "mmap", "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "pkgutil",
        "platform", "posix", "profile", "pty", "pydoc", "requests", "runpy", "shelve", "shutil",
        "signal", "site", "smtplib", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile",
        "thread", "threading", "timeit", "trace", "types", "urllib", "venv", "webbrowser",
        "zipimport",
    }
)  # fmt: skip
"""Modules that act on the machine or on other code: a file that names one is refused, although
nothing here would call it."""

_PLAIN_BUILTINS = frozenset(
    {"set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "bytes", "object",
     "bytearray", "complex", "slice", "range", "type", "NoneType"}
)  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A class or function the file refers to; never looked up, never called."""

    path: str


@dataclass(frozen=True)
class Storage:
    """The data that tensors are views of."""

    values: torch.Tensor


_MARK = object()


class Machine:
    """The stack machine of a pickle, restricted to what builds data."""

    def __init__(
        self,
        program: IO[bytes],
        storage: Callable[[str, str, int], Storage],
        path: Path,
        *,
        budget: int,
    ) -> None:
        self._program = program
        self._storage = storage
        self._name = path.name
        self._left = 4 * budget + 2**26  # bytes that rearranged copies of tensors may take
        self._tensors = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Follow the program to its end and return what it built.

        Raises
        ------
        CheckpointError
            For what a checkpoint has no need for.
        ValueError, KeyError, IndexError, TypeError, EOFError, AttributeError
            For a damaged program.
        """
        start = self._program.tell()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._program)):
            if opcode.name == "STOP":
                return self._stack.pop()
            if count > MOST_INSTRUCTIONS or self._program.tell() - start > LARGEST_PICKLE:
                raise CheckpointError(
                    f"{self._name} is refused: its pickled structure is larger than that of any "
                    "checkpoint; nothing in it was run"
                )
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
    _op_binbytes = _op_short_binbytes = _op_binbytes8 = _op_bytearray8 = _push

    def _op_proto(self, version: int) -> None:
        if not 2 <= version <= 5:
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

    def _op_additems(self, _: None) -> None:
        values = self._pop_to_mark()
        self._target(set).update(map(self._plain_key, values))

    def _op_frozenset(self, _: None) -> None:
        self._push(frozenset(map(self._plain_key, self._pop_to_mark())))

    def _op_setitem(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._target(dict)[self._plain_key(key)] = value

    def _op_setitems(self, _: None) -> None:
        items = self._pop_to_mark()
        target = self._target(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._plain_key(key)] = value

    def _target(self, kind: type) -> Any:
        target = self._stack[-1]
        if type(target) is Record and kind in (list, dict):
            return target.items if kind is dict else target.parts
        if type(target) is not kind:
            raise self._refused(f"fills a {type(target).__name__} as if it were a {kind.__name__}")
        return target

    @classmethod
    def _plain_key(cls, key: Any) -> Any:
        """Return what stands for a key: anything but text and numbers is told apart by its kind."""
        if isinstance(key, Name):
            return key.path
        if isinstance(key, str | int | float | bool | None | bytes | frozenset):
            return key
        if isinstance(key, tuple):
            return tuple(map(cls._plain_key, key))
        raise ValueError(f"a {type(key).__name__} is used as a key")

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
        first = module.partition(".")[0]
        plain = path in _BUILDERS or path in _INERT
        builtin = first in ("builtins", "__builtin__", "__builtins__")
        acts = first in _ACTING or (builtin and name not in _PLAIN_BUILTINS)
        dotted = not name.isidentifier() or not all(p.isidentifier() for p in module.split("."))
        if not plain and (acts or dotted):
            raise self._refused(f"refers to {path!r}")
        self._push(Name(path))

    def _op_binpersid(self, _: None) -> None:
        match self._stack.pop():
            case ("storage", Name(path=path), str(key), str(), int(count)) if count >= 0:
                if key not in self._storages:
                    self._storages[key] = self._storage(path.removeprefix("torch."), key, count)
                self._push(self._storages[key])
            # what torch before 1.6 adds: part of a storage, and the source text of a class
            case ("storage", Name(path=path), str(key), str(), int(count), view) if count >= 0:
                if key not in self._storages:
                    self._storages[key] = self._storage(path.removeprefix("torch."), key, count)
                whole = self._storages[key]
                match view:
                    case None:
                        self._push(whole)
                    case (str(), int(start), int(size)) if 0 <= start <= start + size <= count:
                        self._push(Storage(whole.values[start : start + size]))
                    case _:
                        raise self._refused("refers to part of its data in an unknown way")
            case ("module", Name() as kind, _, _):
                self._push(kind)
            case _:
                raise self._refused("refers to outside data in an unknown way")

    def _op_newobj(self, _: None) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        known = isinstance(kind, Name) and kind.path not in _BUILDERS
        if not known or not isinstance(arguments, tuple):
            raise self._refused("makes an object in an unknown way")
        if arguments and kind.path not in _INERT:
            raise self._refused(f"makes a {kind.path!r} with arguments")
        if kind.path in _INERT and arguments:
            self._push(_INERT[kind.path](*arguments))
        else:
            self._push(Record(kind.path))

    def _op_newobj_ex(self, _: None) -> None:
        if self._stack.pop() != {}:
            raise self._refused("makes an object with named arguments")
        self._op_newobj(_)

    def _op_reduce(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        what = function.path if isinstance(function, Name) else type(function).__name__
        if not isinstance(function, Name) or not (what in _BUILDERS or what in _INERT):
            raise self._refused(f"asks to call {what!r}")
        if not isinstance(arguments, tuple):
            raise self._refused(f"calls {what!r} with something that is not a tuple")
        if what == "torch._tensor._rebuild_from_type_v2":
            # a tensor of a class of its own, with attributes: the tensor is what counts
            builder, _kind, arguments, _state = arguments
            if not isinstance(builder, Name) or builder.path not in _BUILDERS:
                raise self._refused("rebuilds a tensor in an unknown way")
            what = builder.path
        made = (_BUILDERS.get(what) or _INERT[what])(*arguments)
        if isinstance(made, torch.Tensor):
            self._count(made, arguments)
        self._push(made)

    def _count(self, made: torch.Tensor, arguments: tuple[Any, ...]) -> None:
        """Refuse more tensors, and more rearranged copies of them, than any checkpoint needs."""
        self._tensors += 1
        if self._tensors > MOST_TENSORS:
            raise self._refused(f"holds more than {MOST_TENSORS} tensors")
        source = arguments[0].values if isinstance(arguments[0], Storage) else made
        if made.device.type != "meta" and made.data_ptr() != source.data_ptr():
            self._left -= made.nbytes
        if self._left < 0:
            raise self._refused("makes far more of its data than the file holds")

    def _op_build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, DType | Array):
            target.build(state)
        elif isinstance(target, Record):
            # slots and attributes apart, as (attributes or None, slots)
            parts = state if isinstance(state, tuple) else (state,)
            for part in parts:
                if isinstance(part, dict):
                    target.state.update(part)
        elif not (type(target) is dict and isinstance(state, dict)):
            # A state_dict carries `_metadata` this way, which nothing here needs.
            raise self._refused(f"sets the state of a {type(target).__name__}")


def _tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> torch.Tensor:
    """Return a view of a storage; only shapes that lie in the storage and do not overlap."""
    if not isinstance(storage, Storage) or len(size) != len(stride):
        raise ValueError("a tensor has no data, or a shape that does not fit its strides")
    if min((offset, *size, *stride), default=0) < 0:
        raise ValueError("a tensor has a negative size, stride or offset")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(storage.values) or count > len(storage.values)):
        raise ValueError(f"a tensor of shape {size} does not lie within its data")
    # A view, and no copy: in the layout of torch before 1.6 the values are read after this
    return torch.as_strided(storage.values, size, stride, offset)


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise ValueError("a parameter holds no tensor")
    return data


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor,
}
