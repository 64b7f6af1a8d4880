"""The `EnvironmentDiff` value: what differs between two places, what cannot be compared, and how equal they are."""

from __future__ import annotations

from contain.environment.facts import DIMENSIONS, FileFact, Identity, Value
from contain.values import dataclass

ADDED = "added"  # only in the second place
REMOVED = "removed"  # only in the first
CHANGED = "changed"

GRADES = {
    "G0": "same manifest digest",
    "G1": "same config and layers",
    "G2": "same flattened root file system",
    "G3": "same declared set; only known noise differs",
    "G4": "same runtime facts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One fact or package that differs. None means: that side has no such thing.

    ``also``: other dimensions in which the very same difference shows (a variable of the image that the process has too).
    """

    dimension: str
    key: str
    before: Value | None
    after: Value | None
    note: str = ""
    also: tuple[str, ...] = ()

    @property
    def change(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return ADDED if self.before is None else REMOVED if self.after is None else CHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """One path that differs, in which ``aspects``: content, mode, owner, target, kind, device, capabilities.

    ``below``: how many more paths inside this one-sided directory it stands for.
    """

    path: str
    before: FileFact | None
    after: FileFact | None
    aspects: tuple[str, ...] = ()
    below: int = 0

    @property
    def change(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        return ADDED if self.before is None else REMOVED if self.after is None else CHANGED

    @property
    def paths(self) -> int:
        """How many paths this difference stands for."""
        return 1 + self.below


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGroup:
    """The differing paths of one package (``dpkg:openssl``). ``explained``: the package itself differs, and is reported."""

    owner: str
    explained: bool
    differences: tuple[FileDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseGroup:
    """Known noise of one name: the paths or variables, and why they do not count."""

    name: str
    reason: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotComparable:
    """Something that could not be compared, and why: a third answer, never "same"."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two places."""

    name: str
    kind: str
    identity: Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentDiff:
    """The answer of `contain.environment.compare`.

    ``grade``: the best of G0 to G3 that holds, or empty; ``grade_reason``: why not the next better (or, without a grade, why
    not even G3). ``runtime``: ``same`` (G4), ``different``, ``partly`` (no difference found, but not all of it could be
    compared) or ``not captured``.
    """

    a: Side
    b: Side
    grade: str
    grade_reason: str
    runtime: str
    differences: tuple[Difference, ...]
    file_groups: tuple[FileGroup, ...]
    loose_files: tuple[FileDifference, ...]  # owned by no package
    covered_files: tuple[FileDifference, ...]  # whose content shows in ``differences``
    noise: tuple[NoiseGroup, ...]
    not_comparable: tuple[NotComparable, ...]
    notes: tuple[str, ...] = ()

    @property
    def differing_paths(self) -> int:
        """Every path that differs, noise included."""
        grouped = sum(len(group.differences) for group in self.file_groups)
        noise = sum(len(group.keys) for group in self.noise if group.keys and group.keys[0].startswith("/"))
        return grouped + sum(found.paths for found in self.loose_files) + len(self.covered_files) + noise

    @property
    def changed_groups(self) -> tuple[FileGroup, ...]:
        """Packages of the same version on both sides whose files differ nevertheless."""
        return tuple(group for group in self.file_groups if not group.explained)

    @property
    def is_different(self) -> bool:
        """Whether anything but known noise differs."""
        return bool(self.differences or self.changed_groups or self.loose_files)

    @property
    def exit_status(self) -> int:
        """0 no difference but known noise; 1 different; 3 no difference found, but not everything could be compared."""
        return 1 if self.is_different else 3 if self.not_comparable else 0

    def counts(self) -> tuple[tuple[str, int], ...]:
        """(noun, number) of everything that counts as a difference, in report order; the numbers add up to the total."""
        found: dict[str, int] = {}
        for difference in self.differences:
            noun = DIMENSIONS[difference.dimension].noun
            found[noun] = found.get(noun, 0) + 1
        if self.changed_groups:
            found["altered package"] = len(self.changed_groups)
        if self.loose_files:
            found["file outside packages"] = len(self.loose_files)
        return tuple(found.items())
