"""``--output``: what a build leaves besides, or instead of, an image in the store. Deciders first, then the doers.

Source of the rules: ``docker buildx build --help`` and its reference page, "Set the export action for the build result".
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from contain.annotations import TYPE_CHECKING, BinaryIO
from contain.dockerfile.suggestion import suggest
from contain.errors import HostError, UsageError
from contain.paths import HostPath
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.progress import Progress

STANDARD_OUTPUT = "-"


class OutputKind(Enum):
    """In which form the result leaves the build."""

    LOCAL = "local"
    TAR = "tar"
    OCI = "oci"
    DOCKER = "docker"
    IMAGE = "image"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """``destination``: a directory, a file, or ``-`` for standard output; empty for an image in the store. ``names``: further names
    of the image. ``push``: to the registry of each name."""

    kind: OutputKind
    destination: str = ""
    names: tuple[str, ...] = ()
    push: bool = False

    @property
    def needs_image(self) -> bool:
        """Whether the result is an image in the store, and gets its names."""
        return self.kind in (OutputKind.IMAGE, OutputKind.REGISTRY) or (self.kind is OutputKind.DOCKER and not self.destination)


_NEEDS_DESTINATION = (OutputKind.LOCAL, OutputKind.TAR, OutputKind.OCI)


def parse_output(text: str) -> Output:
    """One ``--output``: ``DIR``, ``-``, or ``type=…,dest=…``. Raises `UsageError` (code ``bad-output``)."""
    try:
        fields = next(iter(csv.reader([text], strict=True)), [])
    except csv.Error as error:
        raise _bad(f"cannot read --output {text!r}: {error}") from error
    if len(fields) == 1 and "=" not in fields[0]:
        if fields[0] == STANDARD_OUTPUT:
            return Output(kind=OutputKind.TAR, destination=STANDARD_OUTPUT)
        return Output(kind=OutputKind.LOCAL, destination=fields[0])
    values: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        name = {"destination": "dest"}.get(name.lower(), name.lower())
        if name not in ("type", "dest", "name", "push", "tar"):
            near = suggest(name, ("type", "dest", "name", "push", "tar"))
            raise _bad(
                f"--output does not know {name!r}", f"did you mean {near}?" if near else "known are type, dest, name, push"
            )
        values[name] = value if equals else "true"
    if "type" not in values:
        raise _bad(f"--output {text!r} does not say its type", "write type=local, tar, oci, docker, image or registry")
    try:
        kind = OutputKind(values["type"])
    except ValueError:
        near = suggest(values["type"], [kind.value for kind in OutputKind])
        known = "known are local, tar, oci, docker, image and registry"
        raise _bad(f"--output has no type {values['type']!r}", f"did you mean {near}?" if near else known) from None
    destination = values.get("dest", "")
    if kind in (OutputKind.TAR, OutputKind.OCI) and not destination:
        destination = STANDARD_OUTPUT
    if kind in _NEEDS_DESTINATION and not destination:
        raise _bad(f"--output type={kind.value} needs a destination", f"write type={kind.value},dest=PATH")
    if kind is OutputKind.LOCAL and destination == STANDARD_OUTPUT:
        raise _bad("a directory cannot be written to standard output", "use type=tar,dest=-")
    if kind in (OutputKind.IMAGE, OutputKind.REGISTRY) and destination:
        raise _bad(f"--output type={kind.value} has no destination", "use type=oci or type=docker for a file")
    if values.get("tar", "true") != "true":
        raise _bad("--output tar=false is not supported", "use `contain save --format oci-dir`")
    names = tuple(filter(None, values.get("name", "").split(",")))
    return Output(
        kind=kind,
        destination=destination,
        names=names,
        push=kind is OutputKind.REGISTRY or values.get("push", "false") == "true",
    )


def _bad(message: str, remedy: str = "") -> UsageError:
    return UsageError(message, code="bad-output", remedy=remedy)


def export_directory(trees: Sequence[HostPath], directory: HostPath, *, progress: Progress) -> None:
    """The merged root as files below ``directory``, which may exist; they belong to who calls."""
    from contain.build.copy.perform import CopyOptions, perform_copy
    from contain.build.copy.selection import Batch, CopyPlan, Placement, Selected
    from contain.build.copy.writer import UpperWriter
    from contain.build.trees.view import ViewTree
    from contain.store import RootView

    try:
        directory.mkdir(parents=True, exist_ok=True)
        with RootView(trees) as view, UpperWriter(directory, lower=lambda _path: None, epoch_seconds=0) as writer:
            tree = ViewTree(view)
            root = tree.lookup("")
            assert root is not None
            plan = CopyPlan(directories=(), placements=(Placement(source=root, target=""),))
            owner = (os.geteuid(), os.getegid()) if os.geteuid() == 0 else (0, 0)  # (0, 0) stands for who calls
            batch = Batch(tree=tree, selected=(Selected(name="", node=root),))
            perform_copy(plan, [batch], writer, CopyOptions(owner=owner), warn=progress.warn)
    except OSError as error:
        raise HostError(
            "the result cannot be written", path=str(directory), errno=error.errno or 0, code="output-io"
        ) from error


def export_tar(trees: Sequence[HostPath], out: BinaryIO) -> None:
    """The merged root as one archive, the same bytes for the same root."""
    from contain.store import RootView
    from contain.store.root_archive import root_archive

    with RootView(trees) as view:
        out.writelines(root_archive(view))


@contextmanager
def open_destination(destination: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when the block ends well. Raises `UsageError` for a terminal."""
    if destination == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise UsageError("cowardly refusing to write an archive to a terminal", code="bad-output", remedy="use dest=FILE")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.isdir(destination):
        raise UsageError(f"{destination} is a directory", code="bad-output", remedy="name a file, or use type=local")
    from contain.store.durable import replaced

    try:
        with replaced(destination) as file:
            yield file
    except OSError as error:
        raise HostError("the result cannot be written", path=destination, errno=error.errno or 0, code="output-io") from error
