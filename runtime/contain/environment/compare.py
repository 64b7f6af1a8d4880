"""Set two environments side by side: `Environment` x `Environment` -> `EnvironmentDiff`.

Pure: values in, value out. Every differing path ends in exactly one of: the files of a package, a file of its own, a file
that other facts cover, known noise. What one side could not tell is listed as not comparable and never taken for equal.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

from contain.environment.difference import (
    Difference,
    EnvironmentDiff,
    FileDifference,
    FileGroup,
    NoiseGroup,
    NotComparable,
    Side,
)
from contain.environment.facts import (
    DIMENSIONS,
    FACT_DIMENSIONS,
    IMAGE,
    MANAGERS,
    RUNTIME,
    UNREADABLE,
    Environment,
    FileFact,
    Package,
    Value,
    hidden_key,
)
from contain.environment.noise import covering_dimensions, file_noise, variable_noise
from contain.values import replace

_VARIABLE = re.compile(r"[A-Z][A-Z_]*")
_MOVED_TOGETHER = 5  # packages; from here on "all of them are elsewhere" is one difference, not many


class _Collected:
    """What the comparison gathers before the value is made."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.noise: dict[tuple[str, str], list[str]] = {}
        self.not_comparable: list[NotComparable] = []
        self.file_groups: list[FileGroup] = []
        self.loose_files: list[FileDifference] = []
        self.covered_files: list[FileDifference] = []
        self.notes: list[str] = []


def compare(a: Environment, b: Environment) -> EnvironmentDiff:
    """What differs between two places, graded."""
    found = _Collected()
    same_bytes = _identity_grade(a, b)
    if not same_bytes:
        _compare_packages(a, b, found)
    _compare_facts(a, b, found, image=not same_bytes)
    found.differences = _merge_repeated(found.differences)
    if not same_bytes:
        _compare_files(a, b, found)
    grade, reason = _grade(a, b, found, same_bytes)
    return EnvironmentDiff(
        a=Side(name=a.name, kind=a.kind, identity=a.identity),
        b=Side(name=b.name, kind=b.kind, identity=b.identity),
        grade=grade,
        grade_reason=reason,
        runtime=_runtime(a, b, found),
        differences=tuple(found.differences),
        file_groups=tuple(found.file_groups),
        loose_files=tuple(found.loose_files),
        covered_files=tuple(found.covered_files),
        noise=tuple(
            NoiseGroup(name=name, reason=reason, keys=tuple(sorted(keys)))
            for (name, reason), keys in sorted(found.noise.items(), key=lambda item: (-len(item[1]), item[0]))
        ),
        not_comparable=tuple(found.not_comparable),
        notes=tuple(found.notes),
    )


# Packages


def _compare_packages(a: Environment, b: Environment, found: _Collected) -> None:
    for manager in MANAGERS:
        missing = [(side.name, side.missing[manager]) for side in (a, b) if manager in side.missing]
        if missing:
            found.not_comparable.extend(
                NotComparable(what=f"{manager} packages", reason=f"{name}: {why}") for name, why in missing
            )
            continue
        if (manager in a.packages) != (manager in b.packages):
            without = b if manager in a.packages else a
            found.not_comparable.append(
                NotComparable(what=f"{manager} packages", reason=f"{without.name} was captured without them")
            )
            continue
        found.differences.extend(_package_differences(manager, a.packages.get(manager, {}), b.packages.get(manager, {})))


def _package_differences(
    manager: str, a: Mapping[str, tuple[Package, ...]], b: Mapping[str, tuple[Package, ...]]
) -> list[Difference]:
    differences = []
    moved: dict[tuple[str, str], list[str]] = {}
    for name in sorted({*a, *b}):
        before, after = a.get(name), b.get(name)
        if before == after:
            continue
        if before is not None and after is not None:
            one_each = len(before) == len(after) == 1
            if one_each and (before[0].version, before[0].note) == (after[0].version, after[0].note):
                moved.setdefault((before[0].place, after[0].place), []).append(name)
                continue
        differences.append(
            Difference(dimension=manager, key=name, before=_installs_text(before, after), after=_installs_text(after, before))
        )
    for (before_place, after_place), names in moved.items():
        if len(names) >= _MOVED_TOGETHER:
            key, note = f"({len(names)} packages moved)", "same versions: " + ", ".join(names)
            differences.append(Difference(dimension=manager, key=key, before=before_place, after=after_place, note=note))
        else:
            for name in names:
                version = a[name][0].version
                before_text, after_text = f"{version} ({before_place})", f"{version} ({after_place})"
                differences.append(Difference(dimension=manager, key=name, before=before_text, after=after_text))
    return sorted(differences, key=lambda difference: difference.key)


def _installs_text(installs: tuple[Package, ...] | None, other: tuple[Package, ...] | None) -> Value | None:
    """The version, and where it is only if that is part of what differs."""
    if installs is None:
        return None
    versions = [item.version for item in installs]
    with_place = (
        len(installs) > 1 or (other is not None and len(other) > 1) or versions == [item.version for item in other or ()]
    )
    texts = []
    for item in installs:
        details = ", ".join(part for part in (item.note, item.place if with_place else "") if part)
        texts.append(f"{item.version} ({details})" if details else item.version)
    return texts[0] if len(texts) == 1 else tuple(texts)


# Facts


def _compare_facts(a: Environment, b: Environment, found: _Collected, *, image: bool) -> None:
    one_ran = a.has_runtime != b.has_runtime
    refused = [(side.name, side.missing[RUNTIME]) for side in (a, b) if RUNTIME in side.missing]
    if len(refused) == 2 and not image:
        found.notes.append(f"neither place was asked while it ran: {refused[0][1]}")
    else:
        found.not_comparable.extend(NotComparable(what="runtime facts", reason=f"{name}: {why}") for name, why in refused)
    if one_ran and not refused:
        still = b if a.has_runtime else a
        found.not_comparable.append(NotComparable(what="runtime facts", reason=f"{still.name} was captured without running it"))
    both_ran = a.has_runtime and b.has_runtime
    for name in FACT_DIMENSIONS:
        scope = DIMENSIONS[name].scope
        if (scope == IMAGE and not image) or (scope == RUNTIME and one_ran):
            continue
        missing = [(side.name, side.missing[name]) for side in (a, b) if name in side.missing]
        if missing:
            found.not_comparable.extend(NotComparable(what=name, reason=f"{side}: {why}") for side, why in missing)
        elif name in a.facts and name in b.facts:
            _compare_dimension(name, a, b, found)
        elif (name in a.facts) != (name in b.facts) and not (name == "image-environment" and both_ran):
            without = b if name in a.facts else a
            found.not_comparable.append(NotComparable(what=name, reason=f"{without.name} ({without.kind}) has none"))


def _compare_dimension(name: str, a: Environment, b: Environment, found: _Collected) -> None:
    left, right = a.facts[name], b.facts[name]
    unknown: dict[str, list[str]] = {}
    for key in sorted({*left, *right}):
        before, after = left.get(key), right.get(key)
        gap = _gap(name, key, a, b)
        if gap is not None:
            unknown.setdefault(gap, []).append(key)
        elif before == after or (name == "importable" and _version_only(before) == _version_only(after)):
            continue
        elif hidden_key(before) != hidden_key(after) and None not in {hidden_key(before), hidden_key(after)}:
            why = "hidden with two different keys; capture both with the same CONTAIN_FINGERPRINT_KEY"
            unknown.setdefault(why, []).append(key)
        elif name in {"environment", "image-environment"} and (noise := variable_noise(key)) is not None:
            found.noise.setdefault((noise.name, noise.reason), []).append(key)
        else:
            found.differences.append(Difference(dimension=name, key=key, before=before, after=after))
    for side in (a, b):
        for entry, why in side.missing.items():
            dimension, _, key = entry.partition("/")
            if dimension == name and key and key != "*" and key not in {known for keys in unknown.values() for known in keys}:
                unknown.setdefault(f"{side.name}: {why}", []).append(key)
    found.not_comparable.extend(
        NotComparable(what=f"{name} {', '.join(keys)}", reason=why) for why, keys in sorted(unknown.items())
    )


def _gap(name: str, key: str, a: Environment, b: Environment) -> str | None:
    """Why a key cannot be compared: one side could not read it, or read only a part of the dimension and not this key."""
    for side in (a, b):
        why = side.missing.get(f"{name}/{key}")
        told_anyway = name in {"locale", "time-zone"} and _VARIABLE.fullmatch(key)  # an unset variable is known to be unset
        if why is None and key not in side.facts[name] and not told_anyway:
            why = side.missing.get(f"{name}/*")
        if why is not None:
            return f"{side.name}: {why}"
    return None


def _version_only(value: Value | None) -> str | None:
    return value.partition(" (")[0] if isinstance(value, str) else None


# The most telling dimension first: a variable that decides the locale is a difference of the locale.
_REPEATING = (("locale", "time-zone", "image-environment", "environment"), (*MANAGERS, "importable"))


def _merge_repeated(differences: Iterable[Difference]) -> list[Difference]:
    """One difference where several dimensions say the same: it stands in the first of them and names the others."""
    kept: list[Difference] = list(differences)
    for family in _REPEATING:
        rank = {name: index for index, name in enumerate(family)}
        by_meaning: dict[tuple[object, ...], list[Difference]] = {}
        for difference in kept:
            if difference.dimension in rank:
                meaning: tuple[object, ...] = (difference.key, difference.before, difference.after)
                if "importable" in rank:
                    if difference.dimension not in {"python", "importable"}:
                        continue
                    meaning = (difference.key,)
                by_meaning.setdefault(meaning, []).append(difference)
        dropped: set[tuple[str, str]] = set()
        also: dict[tuple[str, str], tuple[str, ...]] = {}
        for same in by_meaning.values():
            first, *rest = sorted(same, key=lambda difference: rank[difference.dimension])
            dropped.update((difference.dimension, difference.key) for difference in rest)
            also[first.dimension, first.key] = tuple(difference.dimension for difference in rest)
        kept = [
            replace(difference, also=also.get((difference.dimension, difference.key), difference.also))
            for difference in kept
            if (difference.dimension, difference.key) not in dropped
        ]
    return kept


# Files


def _file_aspects(before: FileFact | None, after: FileFact | None) -> tuple[str, ...]:
    if before is None or after is None:
        return ()
    if before.kind != after.kind:
        return ("kind",)
    unreadable = UNREADABLE in {before.digest, after.digest}
    pairs = (
        ("content", not unreadable and before.digest != after.digest),
        ("mode", before.mode != after.mode),
        ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
        ("target", before.target != after.target),
        ("device", before.device != after.device),
        ("capabilities", before.capabilities != after.capabilities),
    )
    return tuple(name for name, differs in pairs if differs)


def _left_out(path: str, skips: tuple[str, ...]) -> bool:
    return any(path == skip or path.startswith(skip + "/") for skip in skips)


def _compare_files(a: Environment, b: Environment, found: _Collected) -> None:
    if "none" in {a.file_scope, b.file_scope}:
        names = " and ".join(side.name for side in (a, b) if side.file_scope == "none")
        found.not_comparable.append(NotComparable(what="files", reason=f"{names} captured without files"))
        return
    owned_only = "packages-only" in {a.file_scope, b.file_scope}
    if owned_only:
        names = " and ".join(side.name for side in (a, b) if side.file_scope == "packages-only")
        reason = f"{names} captured with files of packages only"
        found.not_comparable.append(NotComparable(what="files outside packages", reason=reason))
    skips = tuple(sorted({*a.file_skips, *b.file_skips}))
    if skips:
        found.notes.append("left out of the files: " + ", ".join(skips))
    differing: dict[str, FileDifference] = {}
    unreadable: list[str] = []
    for path in sorted({*a.files, *b.files}):
        before, after = a.files.get(path), b.files.get(path)
        if before is not None and after is not None:
            if UNREADABLE in {before.digest, after.digest}:
                unreadable.append(path)
            if before == after:
                continue
        if skips and _left_out(path, skips):
            continue
        if owned_only and not any(fact is not None and fact.package for fact in (before, after)):
            continue
        aspects = _file_aspects(before, after)
        if aspects or before is None or after is None:
            differing[path] = FileDifference(path=path, before=before, after=after, aspects=aspects)
    if unreadable:
        what = f"content of {len(unreadable)} files"
        found.not_comparable.append(NotComparable(what=what, reason=f"not readable, for example {unreadable[0]}"))
    changed_packages = {
        f"{manager}:{name}"
        for manager in MANAGERS
        for left, right in [(a.packages.get(manager, {}), b.packages.get(manager, {}))]
        for name in {*left, *right}
        if left.get(name) != right.get(name)
    }
    _sort_files(differing, changed_packages, found)


_Class = tuple[str, str, str]  # ("package", owner, "") | ("noise", name, reason) | ("covered", "", "") | ("loose", "", "")


def _sort_files(differing: Mapping[str, FileDifference], changed_packages: set[str], found: _Collected) -> None:
    changed_dimensions = {item.dimension for item in found.differences}
    classes: dict[str, _Class] = {}
    inside: dict[str, set[_Class]] = {}  # one-sided directory -> the classes of what is in it
    for path in sorted(differing, reverse=True):  # deepest first
        difference = differing[path]
        sort = _classify(difference, changed_packages, changed_dimensions)
        fact = difference.before or difference.after
        one_sided = difference.before is None or difference.after is None
        if sort[0] == "loose" and one_sided and fact is not None and fact.kind == "directory" and path in inside:
            sort = next((found_class for found_class in inside[path] if found_class[0] == "loose"), min(inside[path]))
        classes[path] = sort
        if one_sided:
            inside.setdefault(posixpath.dirname(path), set()).add(sort)
    groups: dict[str, list[FileDifference]] = {}
    tops: dict[str, str] = {}
    loose: dict[str, FileDifference] = {}
    for path, difference in differing.items():
        kind, name, reason = classes[path]
        if kind == "package":
            groups.setdefault(name, []).append(difference)
        elif kind == "noise":
            found.noise.setdefault((name, reason), []).append(path)
        elif kind == "covered":
            found.covered_files.append(difference)
        else:
            top = tops.get(posixpath.dirname(path), "")
            if top and loose[top].change == difference.change != "changed":
                loose[top] = replace(loose[top], below=loose[top].below + 1)
                tops[path] = top
            else:
                loose[path] = difference
                fact = difference.before or difference.after
                if difference.change != "changed" and fact is not None and fact.kind == "directory":
                    tops[path] = path
    found.loose_files.extend(loose.values())
    found.file_groups.extend(
        FileGroup(owner=owner, explained=owner in changed_packages, differences=tuple(differences))
        for owner, differences in sorted(groups.items())
    )


def _classify(difference: FileDifference, changed_packages: set[str], changed_dimensions: set[str]) -> _Class:
    # sorted: which side is which must not matter
    owners = sorted({fact.package for fact in (difference.before, difference.after) if fact is not None and fact.package})
    for owner in owners:
        if owner in changed_packages:
            return ("package", owner, "")
    noise = file_noise(difference.path)
    if noise is not None and "mode" not in difference.aspects and "owner" not in difference.aspects:
        return ("noise", noise.name, noise.reason)
    if owners:
        return ("package", owners[0], "")
    if not changed_dimensions.isdisjoint(covering_dimensions(difference.path)) and difference.aspects in {
        (),
        ("content",),
        ("target",),
    }:
        return ("covered", "", "")
    return ("loose", "", "")


# Grades


def _identity_grade(a: Environment, b: Environment) -> str:
    left, right = a.identity, b.identity
    if left.manifest_digest and left.manifest_digest == right.manifest_digest:
        return "G0"
    if left.config_digest and left.config_digest == right.config_digest and left.diff_ids == right.diff_ids:
        return "G1"
    return ""


def _why_not_g1(a: Environment, b: Environment) -> str:
    for side in (a, b):
        if not side.identity.manifest_digest:
            return f"not G1: {side.name} is no image with a manifest"
    left, right = a.identity, b.identity
    if left.diff_ids == right.diff_ids:
        return "not G1: same layers, but the image configs differ"
    common = 0
    while common < min(len(left.diff_ids), len(right.diff_ids)) and left.diff_ids[common] == right.diff_ids[common]:
        common += 1
    return (
        f"not G1: {common} equal layers below, then {len(left.diff_ids) - common} against {len(right.diff_ids) - common} others"
    )


def _grade(a: Environment, b: Environment, found: _Collected, same_bytes: str) -> tuple[str, str]:
    if same_bytes == "G0":
        return "G0", ""
    if same_bytes == "G1":
        return "G1", "not G0: the manifests differ, in compression or annotations only"
    image_gaps = [gap.what for gap in found.not_comparable if not _is_runtime(gap.what)]
    file_noise_count = sum(len(keys) for keys in found.noise.values() if keys[0].startswith("/"))
    files_equal = not (found.file_groups or found.loose_files or found.covered_files or file_noise_count)
    file_gaps = [what for what in image_gaps if "files" in what]
    declared = [item for item in found.differences if DIMENSIONS[item.dimension].scope == IMAGE]
    if files_equal and not file_gaps and not (a.file_skips or b.file_skips):
        return "G2", _why_not_g1(a, b)
    reasons = []
    if declared:
        reasons.append(_amount(len(declared), "declared fact") + " differ" + ("s" if len(declared) == 1 else ""))
    altered = sum(not group.explained for group in found.file_groups)
    if altered:
        reasons.append("files differ inside " + _amount(altered, "package") + " of the same version")
    if found.loose_files:
        reasons.append(
            _amount(len(found.loose_files), "file") + " outside packages differ" + ("s" if len(found.loose_files) == 1 else "")
        )
    if image_gaps:
        reasons.append("not comparable: " + ", ".join(image_gaps))
    if reasons:
        return "", "not G3: " + "; ".join(reasons)
    if files_equal:
        return "G3", "not G2: the host's own state directories were left out"
    return "G3", "not G2: " + _amount(file_noise_count, "path") + " of known noise differ" + (
        "s" if file_noise_count == 1 else ""
    )


def _amount(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _is_runtime(what: str) -> bool:
    name = what.partition(" ")[0]
    return name == "runtime" or (name in DIMENSIONS and DIMENSIONS[name].scope == RUNTIME)


def _runtime(a: Environment, b: Environment, found: _Collected) -> str:
    if any(DIMENSIONS[difference.dimension].scope == RUNTIME for difference in found.differences):
        return "different"
    if not (a.has_runtime and b.has_runtime):
        return "not captured"
    gaps = [entry for side in (a, b) for entry in side.missing if _is_runtime(entry.partition("/")[0])]
    if gaps or any(_is_runtime(gap.what) for gap in found.not_comparable):
        return "partly"
    return "same"
