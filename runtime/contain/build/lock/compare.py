"""A lock: everything that a build's result is made of, pinned. And the decision what moved between a lock and a build.

Values only. `contain.build.lock.file` writes and reads them as text, `contain.build.lock.capture` takes them from a build. A
lock decides nothing by itself: the image's digest does. Everything else in it is there to say *what* is different when the
digest is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from contain.build.record.values import LOCK_NAME
from contain.errors import IntegrityError
from contain.values import dataclass, field

Versions = Mapping[str, Mapping[str, str]]
"""Package manager -> name -> version; several versions and origins (``1.0 from a directory``) in one text."""

_SHOWN_ROWS = 40
_FILE_ROWS = 20
_UNEXPLAINED = ("file", "layer")


def _nothing() -> Versions:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedBase:
    """A base image. ``state``: which state of a distribution's archive it was made from, where it was; ``source`` in words."""

    digest: str
    platform: str
    source: str
    state: str = ""
    packages: Versions = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedStep:
    """An instruction and its layer (empty: none). ``packages``: what it installed or changed, ``removed`` what it took away.

    ``files``: path -> digest of content and attributes; a path with a slash at the end stands for all below it.
    """

    text: str
    layer: str = ""
    from_context: bool = False
    packages: Versions = field(default_factory=_nothing)
    removed: Versions = field(default_factory=_nothing)
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedStage:
    """A stage that the image needs. ``base``: a key of `Lock.bases`, ``stage NAME`` or ``scratch``."""

    name: str
    base: str
    steps: tuple[LockedStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """``build_args``: None for a value that looks secret. ``sources``: address -> digest or commit.

    ``version``: of the contain that made it. ``path`` and ``digest``: of the file that it was read from.
    """

    image: str
    dockerfile: str
    target: str
    platform: str
    epoch_seconds: int
    build_args: Mapping[str, str | None]
    options: Mapping[str, bool]
    bases: Mapping[str, LockedBase]
    sources: Mapping[str, str]
    stages: tuple[LockedStage, ...]
    unread: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    version: str = ""
    path: str = field(default="", compare=False)
    digest: str = field(default="", compare=False)

    def step(self, stage: str, text: str) -> LockedStep | None:
        """The step of a stage with this text; None if there is none, or more than one."""
        found = [step for each in self.stages if each.name == stage for step in each.steps if step.text == text]
        return found[0] if len(found) == 1 else None

    def pinned_layer(self, stage: str, text: str, below: tuple[str, ...]) -> str:
        """The layer that a step must give, if it installs packages and its stage's layers ``below`` it are as locked; else empty."""
        step = self.step(stage, text)
        if step is None or not step.packages:
            return ""
        steps = next(each.steps for each in self.stages if each.name == stage)
        before = tuple(each.layer for each in steps[: steps.index(step)] if each.layer)
        return step.layer if below[len(below) - len(before) :] == before else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One difference: ``kind`` (base, package, file ...), what it is called, what the lock says, what was built, and where."""

    kind: str
    name: str
    locked: str
    built: str
    where: str = ""


FilesOf = Callable[[str], Mapping[str, str] | None]
"""All files of a layer with their digests, or None where the layer is not here."""


def compare_locks(locked: Lock, built: Lock, *, files_of: FilesOf = lambda _: None) -> tuple[Moved, ...]:
    """What moved, causes first. What follows from something that is named already is left out. Empty only if the digests are equal."""
    if locked.image == built.image:
        return ()
    rows = [*_inputs(locked, built), *compare_bases(locked.bases, built.bases)]
    rows += _mapping("source", locked.sources, built.sources)
    ours = {stage.name: stage for stage in built.stages}
    theirs = {stage.name: stage for stage in locked.stages}
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours or name not in theirs:
            rows.append(Moved(kind="stage", name=name, locked=_has(name in theirs), built=_has(name in ours)))
        else:
            rows += _stage(theirs[name], ours[name], files_of, bool(rows))
    if locked.version != built.version and all(row.kind in _UNEXPLAINED for row in rows):
        rows.insert(0, Moved(kind="input", name="version of contain", locked=locked.version, built=built.version))
    if not rows:
        rows.append(Moved(kind="config", name="the image's configuration", locked=locked.image, built=built.image))
    return tuple(rows)


def _has(there: bool) -> str:
    return "present" if there else "absent"


def _inputs(locked: Lock, built: Lock) -> Iterator[Moved]:
    pairs = (
        ("target", locked.target or "the last stage", built.target or "the last stage"),
        ("platform", locked.platform, built.platform),
        ("SOURCE_DATE_EPOCH", str(locked.epoch_seconds), str(built.epoch_seconds)),
    )
    for name, was, now in pairs:
        if was != now:
            yield Moved(kind="input", name=name, locked=was, built=now)
    yield from _mapping("build argument", _shown(locked.build_args), _shown(built.build_args))
    yield from _mapping("option", _words(locked.options), _words(built.options))


def _shown(arguments: Mapping[str, str | None]) -> dict[str, str]:
    return {name: "(not recorded)" if value is None else value or '""' for name, value in arguments.items()}


def _words(options: Mapping[str, bool]) -> dict[str, str]:
    return {name: "on" if value else "off" for name, value in options.items()}


def compare_bases(locked: Mapping[str, LockedBase], built: Mapping[str, LockedBase]) -> Iterator[Moved]:
    """The bases that moved, and for each the packages that differ in it."""
    was, now = ({name: base.digest for name, base in bases.items()} for bases in (locked, built))
    yield from _mapping("base", was, now, "FROM")
    for name in sorted(locked.keys() & built.keys()):
        one, other = locked[name], built[name]
        if one.digest != other.digest:
            yield from _packages(one.packages, other.packages, f"base {name}")


def _mapping(kind: str, locked: Mapping[str, str], built: Mapping[str, str], where: str = "") -> Iterator[Moved]:
    for name in sorted(locked.keys() | built.keys()):
        was, now = locked.get(name, ""), built.get(name, "")
        if was != now:
            yield Moved(kind=kind, name=name, locked=was, built=now, where=where)


def _packages(locked: Versions, built: Versions, where: str) -> Iterator[Moved]:
    for manager in sorted(locked.keys() | built.keys()):
        yield from _mapping(f"{manager} package", locked.get(manager, {}), built.get(manager, {}), where)


def _stage(locked: LockedStage, built: LockedStage, files_of: FilesOf, explained: bool) -> list[Moved]:
    import difflib

    rows: list[Moved] = []
    if locked.base != built.base and not (locked.base.startswith("stage ") and built.base.startswith("stage ")):
        rows.append(Moved(kind="base", name="FROM", locked=locked.base, built=built.base, where=f"stage {locked.name}"))
    was, now = [step.text for step in locked.steps], [step.text for step in built.steps]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if tag == "equal":
            for offset in range(i2 - i1):
                pair = locked.steps[i1 + offset], built.steps[j1 + offset]
                rows += _step(*pair, files_of, explained or bool(rows), number=_layer_number(built, j1 + offset))
            continue
        for offset in range(max(i2 - i1, j2 - j1)):
            one = locked.steps[i1 + offset] if i1 + offset < i2 else None
            other = built.steps[j1 + offset] if j1 + offset < j2 else None
            rows.append(
                Moved(
                    kind="instruction",
                    name=(other or one or locked.steps[0]).text.partition(" ")[0],
                    locked=one.text if one else "",
                    built=other.text if other else "",
                    where=f"stage {locked.name}",
                )
            )
            if one is not None and other is not None:
                rows += _packages(one.packages, other.packages, other.text)
    return rows


def _layer_number(stage: LockedStage, index: int) -> int:
    return sum(bool(step.layer) for step in stage.steps[: index + 1])


def _step(locked: LockedStep, built: LockedStep, files_of: FilesOf, explained: bool, *, number: int) -> list[Moved]:
    if locked.layer == built.layer:
        return []
    where = built.text
    if not (built.packages or built.removed or built.files):  # its layer is not here: nothing more can be said
        return [] if explained else [_layer(locked, built, number)]
    rows = [
        *_packages(locked.packages, built.packages, where),
        *_packages(locked.removed, built.removed, f"removed by {where}"),
    ]
    if rows or (explained and not built.from_context):
        return rows  # files follow from packages, and from whatever the step stands on
    was, now = files_of(locked.layer), files_of(built.layer)
    if was is None or now is None:
        was, now = locked.files, built.files
    files = list(_mapping("file", was, now, where))
    rows += files[:_FILE_ROWS]
    if len(files) > _FILE_ROWS:
        rest = f"{len(files) - _FILE_ROWS} more"
        rows.append(Moved(kind="file", name=rest, locked="", built="", where=where))
    if not rows and not explained:
        rows.append(_layer(locked, built, number))
    return rows


def _layer(locked: LockedStep, built: LockedStep, number: int) -> Moved:
    name = f"built bytes differ at layer {number}"
    return Moved(kind="layer", name=name, locked=locked.layer, built=built.layer, where=built.text)


def moved_error(locked: Lock, rows: tuple[Moved, ...], *, built: str) -> IntegrityError:
    """The error of a build that did not give the locked image (code ``lock-moved``)."""
    name = locked.path or LOCK_NAME
    return IntegrityError(
        f"the build does not give the image that {name} pins ({_short(locked.image)}"
        f"{f', but {_short(built)}' if built else ''}); nothing was tagged. What moved:\n{render_moved(rows)}",
        code="lock-moved",
        remedy=f"undo the change, or accept it: `contain lock` writes {name} again",
    )


def render_moved(rows: tuple[Moved, ...]) -> str:
    """A table: what, what the lock says, what was built, where."""
    table = [("WHAT", "LOCKED", "BUILT", "WHERE")]
    table += [
        (f"{row.kind} {_tail(row.name, 64)}", _value(row.locked), _value(row.built), _cut(row.where, 60))
        for row in rows[:_SHOWN_ROWS]
    ]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    lines = ["   ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) for line in table]
    if len(rows) > _SHOWN_ROWS:
        lines.append(f"... and {len(rows) - _SHOWN_ROWS} more")
    return "\n".join("  " + line.rstrip() for line in lines)


def _tail(text: str, length: int) -> str:
    """Of a path the end says more than the beginning."""
    return text if len(text) <= length else "..." + text[-(length - 3) :]


def _value(text: str) -> str:
    return _cut(_short(text), 40) if text else "-"


def _short(text: str) -> str:
    return text[:19] if text.startswith("sha256:") and len(text) == 71 else text


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
