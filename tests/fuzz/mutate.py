"""Change bytes the way files are damaged, and the way somebody would who means harm."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

Range = tuple[int, int]

_INTERESTING = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536,
                2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)  # fmt: skip
_WORDS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e-320", b"-1", b"0", b"9" * 20, b"null"),
    *(b"true", b"[]", b"{}", b'""', b"\xff\xfe", b"\x00", b"\x1b[31m", b"..", b""),
)
_VALUES = (
    *(b"0", b"-1", b"1e-320", b"1e300", b"9" * 20, b"0.1", b"null", b"true", b"[]", b"{}", b'""'),
    *(b"[[1]]", b'"1"', b'{"a": []}', b'"\\u0000"', b'"\\ud800"', b"1e999", b"NaN"),
)
_PUNCTUATION = frozenset(b"[]{}:,=;|"[n : n + 1] for n in range(9))
_TOKEN = re.compile(rb'"[^"\n]{0,80}"|-?\d[\d.eE+-]*|true|false|null|[\[\]{}:,=;|]')


@dataclass(frozen=True)
class Seed:
    """A good input that is to be damaged.

    Attributes
    ----------
    path
        A file, or a folder of which one file is damaged.
    hot
        Byte ranges in which most damage is to fall, such as headers; the rest is data.
    text
        Whether the bytes are text, so that whole words may be exchanged too.
    inside
        For a folder, the damaged file's path in it.
    """

    path: Path
    hot: tuple[Range, ...] = field(default=())
    text: bool = False
    inside: str | None = None


def mutated(data: bytes, chance: random.Random, seed: Seed) -> bytes:
    """Return the bytes with one to four changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if seed.text and chance.random() < 0.6:
            data = _other_word(data, chance)
        else:
            data = _other_bytes(data, chance, seed.hot)
    return data


def _other_word(data: bytes, chance: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(data[:2_000_000]))
    if not tokens:
        return _other_bytes(data, chance, ())
    values = [token for token in tokens if token[0] not in _PUNCTUATION]
    if values and chance.random() < 0.7:  # what stays JSON gets farther than a syntax error
        token = chance.choice(values)
        word = chance.choice((*_VALUES, chance.choice(values)[0]))
    else:
        token = chance.choice(tokens)
        word = chance.choice((*_WORDS, chance.choice(tokens)[0]))
    return data[: token.start()] + word + data[token.end() :]


def _other_bytes(data: bytes, chance: random.Random, hot: Sequence[Range]) -> bytes:
    if not data:
        return bytes([chance.randrange(256)])
    start, end = 0, len(data)
    if hot and chance.random() < 0.85:
        start, end = chance.choice(hot)
        end = min(end, len(data))
        start = min(start, end - 1)
    at = chance.randrange(max(start, 0), max(end, start + 1))
    changed = bytearray(data)
    kind = chance.choices(
        ("bit", "byte", "number", "copy", "zero", "cut", "grow", "drop"), (3, 3, 9, 3, 2, 1, 1, 1)
    )[0]
    if kind == "bit":
        changed[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        changed[at] = chance.randrange(256)
    elif kind == "number":
        size = chance.choice((1, 2, 4, 8))
        value = (chance.choice(_INTERESTING) + chance.choice((0, 0, -1, 1))) % 256**size
        order = chance.choice(("little", "little", "big"))
        changed[at : at + size] = value.to_bytes(size, order)[: len(changed) - at]
    elif kind == "copy":  # entries of one table onto another
        source, size = chance.randrange(max(start, 0), end), chance.choice((2, 4, 8, 12, 20))
        changed[at : at + size] = data[source : source + size][: len(changed) - at]
    elif kind == "cut":
        del changed[max(1, chance.randrange(at, len(data))) :]
    elif kind == "grow":
        changed[at:at] = chance.randbytes(chance.choice((1, 4, 64)))
    elif kind == "drop":
        del changed[at : at + chance.choice((1, 2, 4, 64))]
    else:
        size = chance.choice((4, 16, 256))
        changed[at : at + size] = bytes(min(size, len(changed) - at))
    return bytes(changed)
