"""What is inside a ``.deb``, and the two things that a bootstrap makes of it: a copy that is quick to unpack, and a seed.

A ``.deb`` is an ar archive of ``debian-binary``, ``control.tar.*`` and ``data.tar.*`` (deb(5)). `plain_deb` is the same
package with both tars uncompressed: its contents are decompressed once, here, on all processors, and not again by dpkg on one.
`write_seed` puts the files of the packages that dpkg itself needs into one tar, from which the first root file system is
extracted. Bytes to bytes; never writes below a root file system.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable

from contain.annotations import BinaryIO
from contain.errors import IntegrityError, NotSupported
from contain.values import dataclass

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_CODE = "debian-package"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebContents:
    """The two tars of a package, uncompressed."""

    control: bytes
    data: bytes


def parse_ar(data: bytes) -> dict[str, bytes]:
    """The members of an ar archive by name. Raises `IntegrityError` (code ``debian-package``). Source: deb(5)."""
    if not data.startswith(_AR_MAGIC):
        raise IntegrityError("a package is not an ar archive", code=_CODE)
    members: dict[str, bytes] = {}
    offset = len(_AR_MAGIC)
    while offset + _AR_HEADER_BYTES <= len(data):
        header = data[offset : offset + _AR_HEADER_BYTES]
        size = header[48:58].strip()
        if header[58:] != b"`\n" or not size.isdigit():
            raise IntegrityError("a package's ar archive is damaged", code=_CODE)
        offset += _AR_HEADER_BYTES
        end = offset + int(size)
        if end > len(data):
            raise IntegrityError("a package's ar archive ends early", code=_CODE)
        members[header[:16].decode("ascii", "replace").rstrip().removesuffix("/")] = data[offset:end]
        offset = end + (end & 1)
    return members


def _gunzip(data: bytes) -> bytes:
    return zlib.decompress(data, wbits=31)


def _unzstd(data: bytes) -> bytes:
    import zstandard

    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        return reader.read()


_DECOMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": _gunzip,
    ".zst": _unzstd,
}


def decompress(name: str, data: bytes) -> bytes:
    """The contents of a file whose ``name`` tells the compression: xz, gz, zst or none. Raises `IntegrityError`, `NotSupported`."""
    suffix = next((ending for ending in _DECOMPRESSORS if ending and name.endswith(ending)), "")
    if not suffix and name.rpartition(".")[2] in ("bz2", "lzma"):
        raise NotSupported(f"the compression of {name} is not supported", code="debian-package-compression")
    try:
        return _DECOMPRESSORS[suffix](data)
    except Exception as error:  # three libraries, three trees of errors
        raise IntegrityError(f"{name} cannot be decompressed: {error}", code=_CODE) from error


def read_deb(data: bytes) -> DebContents:
    """A package's control and data tars. Raises `IntegrityError` (code ``debian-package``) if one is missing or damaged."""
    members = parse_ar(data)
    if not members.get("debian-binary", b"").startswith(b"2."):
        raise IntegrityError("a package is not of format 2", code=_CODE)
    found: dict[str, bytes] = {}
    for name, content in members.items():
        for part in ("control.tar", "data.tar"):
            if name.startswith(part):
                found[part] = decompress(name, content)
    if len(found) != 2:
        raise IntegrityError("a package has no control or no data", code=_CODE)
    return DebContents(control=found["control.tar"], data=found["data.tar"])


def plain_deb(contents: DebContents) -> tuple[bytes, ...]:
    """The package again with uncompressed tars, in pieces to be written one after the other."""
    pieces = [_AR_MAGIC]
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar", contents.control), ("data.tar", contents.data)):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        pieces += [header.encode("ascii"), content, b"\n" if len(content) % 2 else b""]
    return tuple(pieces)


def merged_directories(architecture: str) -> tuple[str, ...]:
    """The directories that a merged system has as links into ``/usr``."""
    return ("bin", "lib", "lib64", "sbin") if architecture == "amd64" else ("bin", "lib", "sbin")


def write_seed(packages: Iterable[bytes], merged: tuple[str, ...], out: BinaryIO) -> None:
    """One tar of the data tars of ``packages``, in their order, to be extracted into an empty directory.

    ``merged``: these top directories become links into ``/usr`` and their contents go there, as it must be before the first
    package is unpacked. The first entry of a name stays: a package does not change a directory that is there already.
    """
    seen: set[str] = set()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as seed:
        for name in merged:
            _directory(seed, seen, "usr")
            _directory(seed, seen, f"usr/{name}")
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, f"usr/{name}", 0o777
            seed.addfile(link)
            seen.add(name)
        for data in packages:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as package:
                for member in package:
                    member.name = _place(member.name, merged)
                    if not member.name or member.name in seen:
                        continue
                    seen.add(member.name)
                    if member.islnk():
                        member.linkname = _place(member.linkname, merged)
                    member.uname = member.gname = ""
                    seed.addfile(member, package.extractfile(member) if member.isreg() else None)


def _directory(seed: tarfile.TarFile, seen: set[str], name: str) -> None:
    if name not in seen:
        seen.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        seed.addfile(entry)


def _place(name: str, merged: tuple[str, ...]) -> str:
    path = name.removeprefix("./").strip("/")
    if path == ".":
        return ""
    head, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and head in merged else path
