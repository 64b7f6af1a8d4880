"""Why a step was not taken from the cache: the difference between its ingredients and those of the nearest earlier record. Pure.

The ingredients of a key are stored beside it (`contain.build.cache.keys`), so "why" is a comparison of two mappings. Each
ingredient has a function here that says its change in words (`EXPLAINERS`); a unit test holds this table against the
ingredients that there are. Some things are told better than the key knows them: which files changed (from the listings of
inputs), which earlier step or base is another one (from the record's details), which variables are build arguments. Values of
variables whose names look secret are not shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType

from contain.annotations import Any
from contain.environment.facts import looks_secret
from contain.values import dataclass, field

_SHOWN = 3
_LONGEST = 60


class Outcome(Enum):
    """What became, or would become, of a step."""

    HIT = "HIT"
    MISS = "MISS"
    OPEN = "OPEN"  # only known once the steps before it have been carried out


@dataclass(frozen=True, slots=True, kw_only=True)
class StepExplanation:
    """One step with files. ``text``: the instruction; ``reasons``: why, most telling first."""

    outcome: Outcome
    stage: str
    text: str
    place: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.outcome.value:<4} {self.text}" + (f"  {', '.join(self.reasons)}" if self.reasons else "")


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The ingredients of one step, and what makes them understandable: ``details`` (see `contain.build.cache.steps`) and a
    function that
    gives the listing of an input by its digest, empty if it is not known."""

    ingredients: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=_nothing)
    listing: Callable[[str], Mapping[str, str]] = lambda digest: {}  # noqa: ARG005


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An earlier record that may be the one to compare with."""

    snapshot: Snapshot
    same_place: bool
    same_command: bool


def choose_nearest(ingredients: Mapping[str, Any], candidates: Sequence[Earlier]) -> Earlier | None:
    """The record to compare with: of the same command at the same place, else of the same command elsewhere, else at the same place.
    Among equals that with the fewest other ingredients, then the first (callers give the newest first)."""

    def rank(earlier: Earlier) -> tuple[int, int]:
        nearness = 0 if earlier.same_place and earlier.same_command else 1 if earlier.same_command else 2
        return nearness, len(changed_names(earlier.snapshot.ingredients, ingredients))

    return min(candidates, key=rank, default=None)


def changed_names(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingredients that are not the same, in the order in which they are told."""
    changed = [name for name in {**after, **before} if before.get(name) != after.get(name)]
    order = list(EXPLAINERS)
    return tuple(sorted(changed, key=lambda name: (order.index(name) if name in order else len(order), name)))


def explain_miss(before: Snapshot | None, after: Snapshot, *, ignore: Iterable[str] = ()) -> tuple[str, ...]:
    """The reasons why the step of ``after`` is not the recorded one of ``before``; without one it is done for the first time."""
    if before is None:
        return ("first time",)
    reasons: list[str] = []
    for name in changed_names(before.ingredients, after.ingredients):
        if name in ignore:
            continue
        explain = EXPLAINERS.get(name, _plain(name))
        reasons += [reason for reason in explain(before, after) if reason not in reasons]
    return tuple(reasons)


Explainer = Callable[[Snapshot, Snapshot], "list[str]"]


def _plain(name: str, label: str = "", empty: str = "none") -> Explainer:
    """``label: before -> after``."""

    def explain(before: Snapshot, after: Snapshot) -> list[str]:
        old, new = before.ingredients.get(name), after.ingredients.get(name)
        return [f"{label or name}: {_short(old, empty)} -> {_short(new, empty)}"]

    return explain


def _flag(name: str, label: str) -> Explainer:
    """``label`` was added or removed."""

    def explain(before: Snapshot, after: Snapshot) -> list[str]:  # noqa: ARG001 - an explainer's shape
        return [f"{label} {'added' if after.ingredients.get(name) else 'removed'}"]

    return explain


def _normalised(before: Snapshot, after: Snapshot) -> list[str]:
    if before.ingredients.get("normalised") is None or after.ingredients.get("normalised") is None:
        return [f"--reproducible {'off -> on' if before.ingredients.get('normalised') is None else 'on -> off'}"]
    return ["the rules that take noise out of a layer changed"]


def _short(value: object, empty: str = "none") -> str:
    if value in (None, "", [], {}):
        return empty
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _version(before: Snapshot, after: Snapshot) -> list[str]:  # noqa: ARG001 - an explainer's shape
    return ["the recorded step was made by another version of contain"]


def _base(before: Snapshot, after: Snapshot) -> list[str]:
    """Which image below it, or which step before it, is another one."""
    old, new = before.details, after.details
    if old.get("base") != new.get("base"):
        return [f"base changed: {_short(old.get('base'))} -> {_short(new.get('base'))}"]
    if old.get("base_digest") != new.get("base_digest"):
        return [f"base {new.get('base')} moved: {_digest(old.get('base_digest'))} -> {_digest(new.get('base_digest'))}"]
    below, now = _stack(old), _stack(new)
    for (text, diff_id), (new_text, new_diff_id) in zip(below, now, strict=False):
        if text != new_text:
            return [f"an earlier step changed: {_short(text)} -> {_short(new_text)}"]
        if diff_id != new_diff_id:
            return [f"an earlier step gave other files: {_short(new_text)}"]
    if len(now) > len(below):
        return [f"a step was added before it: {_short(now[len(below)][0])}"]
    if len(below) > len(now):
        return [f"a step before it is gone: {_short(below[len(now)][0])}"]
    if old.get("fingerprint") != new.get("fingerprint"):
        return ["this machine's root, the base, changed"]
    return ["what it stands on changed"]


def _stack(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(text), str(diff_id)) for text, diff_id in details.get("stack", ())]


def _digest(value: object) -> str:
    return str(value).removeprefix("sha256:")[:12] if value else "none"


def _command(before: Snapshot, after: Snapshot) -> list[str]:
    old, new = list(before.ingredients.get("command") or ()), list(after.ingredients.get("command") or ())
    if old[-1:] == new[-1:] and len(old) > 1 and len(new) > 1:
        return [f"SHELL: {_short(shlex.join(old[:-1]))} -> {_short(shlex.join(new[:-1]))}"]
    if old[:-1] == new[:-1] and len(old) > 1:
        old, new = old[-1:], new[-1:]
    return ["the command: " + _difference(" ".join(old), " ".join(new))]


def _difference(old: str, new: str) -> str:
    """Two texts from a little before their first difference on."""
    start = next(
        (index for index, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )
    start = max(0, start - 12) if max(len(old), len(new)) > _LONGEST else 0
    lead = "..." if start else ""
    return f"{lead}{_short(old[start:], 'nothing')} -> {lead}{_short(new[start:], 'nothing')}"


def _lines(what: str, old: str | None, new: str | None) -> list[str]:
    if old is None or new is None:
        return [f"{what} {'added' if old is None else 'removed'}"]
    before, after = old.splitlines(), new.splitlines()
    for number, (one, other) in enumerate(zip(before, after, strict=False), 1):
        if one != other:
            return [f"{what}, line {number}: {_difference(one, other)}"]
    return [f"{what}: {len(before)} lines -> {len(after)} lines"]


def _script(before: Snapshot, after: Snapshot) -> list[str]:
    return _lines("the script", before.ingredients.get("script"), after.ingredients.get("script"))


def _documents(before: Snapshot, after: Snapshot) -> list[str]:
    old = {str(name): str(text) for name, text, *_ in before.ingredients.get("documents") or ()}
    new = {str(name): str(text) for name, text, *_ in after.ingredients.get("documents") or ()}
    reasons: list[str] = []
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            reasons += _lines(f"the heredoc {name}", old.get(name), new.get(name))
    return reasons or ["the order of the heredocs"]


def _environment(before: Snapshot, after: Snapshot) -> list[str]:
    old, new = before.ingredients.get("environment") or {}, after.ingredients.get("environment") or {}
    arguments = {*before.details.get("arguments", ()), *after.details.get("arguments", ())}
    reasons = []
    for name in {**old, **new}:
        if old.get(name) == new.get(name):
            continue
        kind = "build-arg" if name in arguments else "ENV"
        if name not in old:
            reasons.append(f"{kind} {name} added" if looks_secret(name) else f"{kind} {name}={_short(new[name], '')} added")
        elif name not in new:
            reasons.append(f"{kind} {name} removed")
        elif looks_secret(name):
            reasons.append(f"{kind} {name} changed (value not shown)")
        else:
            reasons.append(f"{kind} {name}: {_difference(str(old[name]), str(new[name]))}")
    return reasons or ["the order of the variables"]


def _input(before: Snapshot, after: Snapshot) -> list[str]:
    """What is there of two inputs: names, and what of each changed."""
    old, new = before.ingredients.get("input"), after.ingredients.get("input")
    if old == new:
        return []
    return explain_files(before.listing(str(old)), after.listing(str(new)))


def explain_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """``1 file changed: src/a.py (content)``, ``2 added: ...``, ``1 removed: ...``."""
    if not old or not new:
        return ["files changed (what they were is not on record)"]
    changed = [f"{path} ({_change(old[path], new[path])})" for path in new if path in old and old[path] != new[path]]
    added = [path for path in new if path not in old]
    removed = [path for path in old if path not in new]
    reasons = []
    if changed:
        reasons.append(f"{len(changed)} file{'s' if len(changed) > 1 else ''} changed: {_some(changed)}")
    if added:
        reasons.append(f"{len(added)} added: {_some(added)}")
    if removed:
        reasons.append(f"{len(removed)} removed: {_some(removed)}")
    return reasons or ["the order of the sources"]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    shown = ["".join(each if each.isprintable() else "?" for each in name) for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _change(old: str, new: str) -> str:
    """What differs between two descriptions of one entry (`contain.build.copy.selection.describe_entry`)."""
    if min(old.count(" "), new.count(" ")) < 3:
        return "changed"  # a damaged listing of another machine
    kind, mode, owner, *rest = old.split(" ")[1:]
    new_kind, new_mode, new_owner, *new_rest = new.split(" ")[1:]
    if kind != new_kind:
        return f"{kind} -> {new_kind}"
    changes = [f"mode {mode.zfill(4)} -> {new_mode.zfill(4)}"] if mode != new_mode else []
    changes += [f"owner {owner} -> {new_owner}"] if owner != new_owner else []
    if rest != new_rest:
        linked = rest[:1] == ["="] or new_rest[:1] == ["="]
        what = (
            "hard link"
            if linked
            else "target"
            if kind == "symlink"
            else "content"
            if rest[:1] != new_rest[:1]
            else "attributes"
        )
        changes.append(what)
    return ", ".join(changes)


def _entries(before: Snapshot, after: Snapshot) -> list[str]:
    """Follows from the input, which tells it better."""
    if before.ingredients.get("input") != after.ingredients.get("input"):
        return []
    return [f"{before.ingredients.get('entries')} entries -> {after.ingredients.get('entries')}"]


def _mounts(before: Snapshot, after: Snapshot) -> list[str]:
    old, new = _by_target(before), _by_target(after)
    reasons: list[str] = []
    for target in {**old, **new}:
        one, other = old.get(target), new.get(target)
        if one == other:
            continue
        if one is None or other is None:
            reasons.append(f"--mount {target} {'added' if one is None else 'removed'}")
            continue
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        for name in names:
            if name == "content":
                files = explain_files(before.listing(str(one.get(name))), after.listing(str(other.get(name))))
                reasons += [f"--mount {target}: {reason}" for reason in files]
            else:
                reasons.append(f"--mount {target} {name}: {_short(one.get(name))} -> {_short(other.get(name))}")
    return reasons or ["the order of the mounts"]


def _by_target(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for number, mount in enumerate(snapshot.ingredients.get("mounts") or ()):
        name = f"type={mount.get('type')} {mount.get('target') or mount.get('env') or mount.get('id') or number}"
        found[name if name not in found else f"{name} ({number})"] = mount
    return found


EXPLAINERS: Mapping[str, Explainer] = MappingProxyType(
    {
        "v": _version,
        "kind": _plain("kind", "the instruction"),
        "command": _command,
        "script": _script,
        "documents": _documents,
        "environment": _environment,
        "input": _input,
        "entries": _entries,
        "mounts": _mounts,
        "user": _plain("user", "USER", "root"),
        "working_directory": _plain("working_directory", "WORKDIR"),
        "path": _plain("path", "WORKDIR"),
        "network": _plain("network", "--network"),
        "security": _plain("security", "--security", "sandbox"),
        "host_names": _plain("host_names", "--add-host"),
        "hostname": _plain("hostname", "the container's host name", "the usual"),
        "normalised": _normalised,
        "link": _flag("link", "--link"),
        "parents": _flag("parents", "--parents"),
        "exclude": _plain("exclude", "--exclude"),
        "unpack_remote": _flag("unpack_remote", "--unpack"),
        "destination": _plain("destination", "the destination"),
        "owner": _plain("owner", "--chown"),
        "mode": _plain("mode", "--chmod"),
        "platform": _plain("platform", "platform"),
        "epoch_seconds": _plain("epoch_seconds", "SOURCE_DATE_EPOCH"),
        "base": _base,
    }
)
"""What says the change of each ingredient, in the order in which they are told: the step's own first, what it stands on last."""
