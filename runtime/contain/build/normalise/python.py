"""Compiled Python: the source's time in the header becomes the time that the source has in the finished layer. Pure.

A ``.pyc`` is valid as long as the time and size in its header are its source's (PEP 3147, PEP 552). The layer's times are clamped;
without this every file that a RUN's import compiled would be stale in the image, and compiled again at each start.
"""

from __future__ import annotations

import re
import struct

from contain.build.normalise.facts import FileFacts

_PEP_552 = 3390  # the magic number of 3.7's first alpha with flags; those of Python 2 begin at 20121
_PYTHON_2 = 20000
_MASK = 0xFFFF_FFFF


def source_of(path: str) -> str:
    """Where the source of a compiled file is, whether it exists or not."""
    directory, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    above, _, last = directory.rpartition("/")
    if last == "__pycache__":
        stem = re.sub(r"\.[a-z]+-?\d+\w*(?:\.opt-\w+)?$", "", stem)
        return f"{above}/{stem}.py" if above else f"{stem}.py"
    return f"{directory}/{stem}.py" if directory else f"{stem}.py"


def rewrite_pyc(data: bytes, facts: FileFacts) -> bytes | None:
    """A file that is checked by a hash, or never, stays as it is."""
    if len(data) < 16 or data[2:4] != b"\r\n":
        return None
    (magic,) = struct.unpack_from("<H", data)
    offset = 4
    if _PEP_552 <= magic < _PYTHON_2:
        if struct.unpack_from("<I", data, 4)[0] != 0:
            return None
        offset = 8
    elif magic < 3000:  # PyPy's own numbers
        return None
    (seconds,) = struct.unpack_from("<I", data, offset)
    source = facts.find_source(source_of(facts.path))
    if source is not None and seconds == source.mtime_seconds & _MASK:
        wanted = source.final_mtime_seconds & _MASK
    elif source is not None and seconds == source.final_mtime_seconds & _MASK:
        return None
    elif seconds > facts.step.epoch_seconds:
        wanted = 0 if source is not None else facts.step.epoch_seconds & _MASK  # stale stays stale
    else:
        return None
    return data[:offset] + struct.pack("<I", wanted) + data[offset + 4 :] if wanted != seconds else None
