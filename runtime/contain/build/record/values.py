"""What a build did, as values: for the lock file and the provenance. Says nothing of times, machines or the cache."""

from __future__ import annotations

from collections.abc import Mapping

from contain.values import dataclass

LOCK_NAME = "contain.lock"
"""A lock's usual name. A file of this name is never part of a build context: it would have to hold its own image's digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStep:
    """One instruction. ``text`` is as written, without the values of variables. ``layer``: its diff_id, None if it made none.

    ``networked``: a RUN that could reach a network. ``from_context``: a COPY or ADD of files of a build context.
    """

    text: str
    layer: str | None
    networked: bool = False
    from_context: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStage:
    """One stage. ``base``: the base image's familiar name, ``stage NAME``, ``context NAME`` or ``scratch``."""

    name: str
    base: str
    steps: tuple[BuiltStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBase:
    """A base image that the build used, by its familiar name. ``source``: where it came from, in words."""

    name: str
    digest: str
    platform: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """What an ADD or a context took from elsewhere: ``digest`` (``sha256:…``) of a file or an image, ``commit`` of a repository."""

    uri: str
    digest: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """``dockerfile``: its path as a reader would write it. ``build_args``: as given. ``stages``: each after what it depends on."""

    dockerfile: str
    dockerfile_digest: str
    target: str
    platform: str
    epoch_seconds: int
    build_args: Mapping[str, str]
    options: Mapping[str, bool]
    bases: tuple[BuiltBase, ...]
    remotes: tuple[RemoteSource, ...]
    stages: tuple[BuiltStage, ...]
