"""The host's pytest, lent to environments that have none: a directory of its pure-Python packages, put together once.

It is mounted read-only and goes to the END of the worker's ``sys.path``: whatever the image has comes first, and the image is
not changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from contain.errors import HostError, UsageError

LENT = ("pytest", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli", "typing_extensions")
"""pytest and everything that it imports on some Python. What is not installed on the host is left out."""

_MODULES_OF = {"pytest": ("pytest", "_pytest", "py.py")}
_NEEDED_BEFORE = {"exceptiongroup": (3, 11), "tomli": (3, 11), "typing_extensions": (3, 13)}
_COMPARISON = re.compile(r"\s*(>=|<=|>|<|==|!=|~=)\s*([0-9.]+?)(?:\.\*)?\s*$")


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    for name in LENT:
        try:
            yield importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def supports(requires_python: str | None, python: tuple[int, ...]) -> bool:
    """Whether ``Requires-Python`` (the core metadata specification) admits a version. What cannot be read admits it."""
    for clause in (requires_python or "").split(","):
        match = _COMPARISON.match(clause)
        if match is None:
            continue
        operator, text = match[1], match[2]
        wanted = tuple(int(part) for part in text.split(".") if part)
        have = tuple(python[: len(wanted)]) if operator in ("==", "!=", "<=", ">") else tuple(python)
        admitted = {
            ">=": have >= wanted,
            "<=": have <= wanted,
            ">": have > wanted,
            "<": have < wanted,
            "==": have == wanted,
            "!=": have != wanted,
            "~=": have >= wanted and have[: len(wanted) - 1] == wanted[:-1],
        }[operator]
        if not admitted:
            return False
    return True


def refuse_unsupported_python(python: tuple[int, ...], *, environment: str) -> None:
    """Raise `UsageError` (code ``python-unsupported``) if what would be lent cannot run on that Python."""
    shown = ".".join(map(str, python))
    for distribution in _distributions():
        name = distribution.metadata["Name"]
        before = _NEEDED_BEFORE.get(name.lower().replace("-", "_"))
        if before is not None and python >= before:
            continue
        requires = distribution.metadata["Requires-Python"]
        if not supports(requires, python):
            raise UsageError(
                f"environment {environment!r} has no pytest, and this machine's {name} {distribution.version} needs Python"
                f" {requires}; the environment has {shown}",
                code="python-unsupported",
                remedy="install pytest in the image, in a version for its Python",
            )
    if python < (3, 11):
        have = {distribution.metadata["Name"].lower().replace("-", "_") for distribution in _distributions()}
        missing = [name for name in ("exceptiongroup", "tomli") if name not in have]
        if missing:
            raise UsageError(
                f"environment {environment!r} has Python {shown} and no pytest; to lend it one, this machine needs"
                f" {' and '.join(missing)}",
                code="python-unsupported",
                remedy=f"install pytest in the image, or: pip install {' '.join(missing)}",
            )


def lend_pytest(cache: Path) -> Path:
    """The directory with the host's pytest, below ``cache``; put together when its versions are new there."""
    found = list(_distributions())
    versions = [f"{distribution.metadata['Name']} {distribution.version}" for distribution in found]
    key = hashlib.sha256("\n".join([*sorted(versions), repr(_MODULES_OF)]).encode()).hexdigest()[:16]
    place = cache / key
    if place.is_dir():
        return place
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as directory:
        new = Path(directory) / key
        new.mkdir()
        for distribution in found:
            _copy(distribution, new)
        for path, _, names in os.walk(directory):
            Path(path).chmod(0o755)
            for name in names:
                (Path(path) / name).chmod(0o644)
        try:
            new.rename(place)
        except OSError:
            if not place.is_dir():  # another run was faster
                raise
    return place


def _copy(distribution: importlib.metadata.Distribution, target: Path) -> None:
    name = distribution.metadata["Name"].lower().replace("-", "_")
    files = distribution.files
    if not files:
        raise HostError(f"it is not known which files belong to {name}", remedy="reinstall it with pip", code="no-file-list")
    wanted = (*_MODULES_OF.get(name, (name,)), f"{name}.py")
    for file in files:
        top = file.parts[0]
        if "__pycache__" in file.parts or not (top in wanted or top.endswith(".dist-info")):
            continue
        if file.suffix in (".so", ".pyd", ".pyc"):
            continue  # typing_extensions and tomli may bring compiled modules; their Python ones do the same
        destination = target / file
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(distribution.locate_file(file)), destination)
