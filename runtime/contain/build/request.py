"""What a build is asked for and what it answers. Values only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.build.cache.policy import CachePolicy
from contain.build.contexts.places import ContextPlace
from contain.build.record.values import BuildRecord, RemoteSource
from contain.build.run.options import RunOptions
from contain.oci import Image, Platform
from contain.paths import HostPath
from contain.reference import Reference
from contain.values import dataclass, field

if TYPE_CHECKING:
    from contain.build.cache.explain import StepExplanation
    from contain.build.lock.compare import Lock
    from contain.store import StepRecord

DEFAULT_EPOCH_SECONDS = 946_684_800
"""2000-01-01T00:00:00Z: the time of everything that a build makes, unless ``SOURCE_DATE_EPOCH`` says another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One ``contain build``.

    ``context``: None for a Dockerfile that copies nothing from one. ``dockerfile``: a path; default ``Dockerfile`` in the
    context. ``dockerfile_text``: the text itself, then ``dockerfile`` only names it in messages. ``platform``: None for this
    machine's. ``strict_modes``: keep the context's permission bits as they are, see `contain.build.trees.context`.
    ``context_name``: where the context came from, if it is no directory of the user's; its Dockerfile is then looked up
    inside it, and its .dockerignore has no meaning. ``contexts``: the named ones, by
    `contain.build.contexts.places.context_key`. ``labels``: added to the image. ``lock``: the build gives the image that it
    pins, or fails and says what moved. ``reproducible``: take the noise of package managers out of the layers of RUN, see
    `contain.build.normalise`. ``run``: what its RUN instructions are given and may do.
    """

    context: HostPath | None
    dockerfile: HostPath | None = None
    dockerfile_text: str | None = None
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tags: tuple[Reference, ...] = ()
    no_cache: bool = False
    platform: Platform | None = None
    strict_modes: bool = False
    context_name: str = ""
    cache: CachePolicy = CachePolicy()
    contexts: Mapping[str, ContextPlace] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    run: RunOptions = RunOptions()
    lock: Lock | None = None
    context_source: RemoteSource | None = None
    reproducible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildHost:
    """What a build takes from the machine. Nothing of it reaches an image or a cache key, except ``epoch_seconds``.

    ``proxies``: the host's proxy variables, for RUN. ``ca_bundle``: the host's certificate authorities, for RUN. ``epoch_asked``:
    somebody asked for this time, so that one in the Dockerfile does not count.
    """

    platform: Platform
    proxies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    ca_bundle: HostPath | None = None
    epoch_seconds: int = DEFAULT_EPOCH_SECONDS
    epoch_asked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSource:
    """Where one base image came from. ``local``: it was in the store already; ``source`` then says how it got there."""

    name: str
    digest: str
    source: str
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInputs:
    """What a build looked at on this machine: directories with what was seen below them, and image names with their digests."""

    trees: tuple[tuple[HostPath, tuple[tuple[str, os.stat_result], ...]], ...]
    names: Mapping[str, str]
    texts: Mapping[HostPath, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The image, where its bases came from, and how many steps with a layer were taken from the cache or executed.

    ``inputs``: None where a step was executed, or the result depends on more than they hold: an address, this machine's root.
    ``replaced``: the records that a build without the cache found there, each with the one that it made itself.
    """

    image: Image
    sources: tuple[BaseSource, ...]
    cached_steps: int
    executed_steps: int
    explanations: tuple[StepExplanation, ...] = ()
    record: BuildRecord
    inputs: BuildInputs | None = None
    replaced: tuple[tuple[StepRecord, StepRecord], ...] = ()

    @property
    def digest(self) -> str:
        """The image's identity."""
        return self.image.digest
