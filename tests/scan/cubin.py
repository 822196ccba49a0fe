"""Reads from a cubin, which is an ELF file, what ``ptxas -v`` would print."""

import struct
from typing import NamedTuple

_REGISTERS, _FRAME = 0x2F, 0x11  # attributes of .nv.info: pairs of a symbol and a number


class Kernel(NamedTuple):
    """Resources of a kernel.

    Attributes
    ----------
    registers
        Per thread.
    frame
        Bytes of local memory per thread; 0 where nothing is spilled.
    """

    registers: int
    frame: int


def kernels(image: bytes) -> dict[str, Kernel]:
    """Return the kernels of a cubin by name."""
    assert image[:4] == b"\x7fELF"
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + i * size) for i in range(count)]

    def text(strings: int, offset: int) -> str:
        start = sections[strings][4] + offset
        return image[start : image.index(b"\0", start)].decode()

    by_name = {text(names_at, s[0]): s for s in sections}
    symbols, info = by_name[".symtab"], by_name[".nv.info"]

    def symbol(index: int) -> str:
        (offset,) = struct.unpack_from("<I", image, symbols[4] + index * symbols[9])
        return text(symbols[6], offset)

    found: dict[int, dict[str, int]] = {_REGISTERS: {}, _FRAME: {}}
    at, end = info[4], info[4] + info[5]
    while at < end:
        form, attribute, length = struct.unpack_from("<BBH", image, at)
        at += 4
        if form != 4:  # the value is in `length` itself
            continue
        if attribute in found:
            index, value = struct.unpack_from("<II", image, at)
            found[attribute][symbol(index)] = value
        at += length
    return {n: Kernel(r, found[_FRAME][n]) for n, r in found[_REGISTERS].items()}
