"""What programs that compress files make of a text, having just read another: floors that know nothing of tokens."""

import bz2
import lzma
import zlib
from collections.abc import Callable

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: zlib.compress(data, 9),
    "bzip2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9),
}


def compressed_bits(before: bytes, text: bytes) -> dict[str, float]:
    """Return the bits that each byte of `text` adds to `before`, by program: those of both together, less those of
    `before` alone."""
    return {
        name: 8 * (len(compress(before + text)) - len(compress(before))) / len(text)
        for name, compress in COMPRESSORS.items()
    }
