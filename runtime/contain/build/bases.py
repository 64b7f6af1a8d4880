"""Finds base images: the local store, then a registry, then the base providers. Says where each came from.

A provider is a pluggy hook (project name ``contain``), so that a base can be made from something that is no image: the
machine's own root (``host``), a distribution's archive (``debian:bookworm``). Where a base came from is kept with its name
in the store and in the build's result, never in the image: the same bytes have the same digest wherever they came from.
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

from contain.annotations import TYPE_CHECKING
from contain.build.host_root import HOST_NAME, host_config, image_trees
from contain.build.request import BaseSource
from contain.errors import NotFound, RegistryError
from contain.oci import Image, Platform
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.registry.platform import runs_on
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store import Store

PROJECT = "contain"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidedBase:
    """What a base provider made: an image that is in the store, and where it came from, in a few words."""

    image: Image
    source: str


class BaseProviderHooks:
    """The hooks of this module."""

    @hookspec(firstresult=True)
    def contain_provide_base(self, reference: Reference, store: Store, progress: Progress) -> ProvidedBase | None:
        """Make the image that ``reference`` names and put it into ``store``, or return None if it is not one of yours.

        Called when neither the store nor a registry has it. Raise a `ContainError` for "mine, and it failed".
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBase:
    """A base and its layer trees, lowest first."""

    image: Image
    trees: tuple[HostPath, ...]
    source: BaseSource


_REMEDY = "check the name and the way to the registry, or `contain import` a root file system under this name"

BaseFinder = Callable[[Reference, Platform, Progress], FoundBase]


class _HostProvider:
    @hookimpl
    def contain_provide_base(self, reference: Reference, store: Store) -> ProvidedBase | None:
        if reference.name != HOST_NAME:
            return None
        return ProvidedBase(image=store.put_image(host_config(), ()), source="this machine's root")


class _DebianProvider:
    @hookimpl
    def contain_provide_base(self, reference: Reference, store: Store, progress: Progress) -> ProvidedBase | None:
        from contain.build.debian import provide_debian_base  # reaches a signature library and a container runtime

        return provide_debian_base(reference, store=store, progress=progress)


def base_providers() -> pluggy.PluginManager:
    """The providers: those built in, asked last, and those of installed distributions (entry point group ``contain``)."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(BaseProviderHooks)
    manager.register(_DebianProvider(), "debian")
    manager.register(_HostProvider(), "host")
    manager.load_setuptools_entrypoints(PROJECT)
    return manager


def find_base(
    reference: Reference,
    platform: Platform,
    progress: Progress,
    *,
    store: Store,
    pull: Callable[[Reference, Platform, Progress], Image],
    providers: Callable[[], pluggy.PluginManager] = base_providers,
    refresh: bool = False,
) -> FoundBase:
    """Look a base up: local store, registry (``pull``), providers. ``refresh``: the local store comes last, with a warning.

    Raises `NotFound` (code ``base-not-found``) that says what each place answered; errors of a provider as they are.
    """
    source: str | None = None
    local: tuple[str, str] | None = None
    here = "not in the local store"
    if reference.name != HOST_NAME:
        local = store.name_source(reference)
        if local is not None and not runs_on(other := store.image(local[0]).config.platform, platform):
            here = f"in the local store for {other}, not for {platform}"
            local = None
        if local is not None and not refresh:
            image = store.image(local[0])
            return _found(reference, image, local[1], store, progress, local=True)
        try:
            image = pull(reference, platform, progress)
            return _found(reference, image, f"registry {reference.domain}", store, progress)
        except RegistryError as error:
            if error.code != "registry-unreachable":
                raise
            source = f"the registry {reference.domain} cannot be reached ({error.message.removeprefix('cannot reach ')})"
        except NotFound as error:
            source = error.message
    try:
        provided = providers().hook.contain_provide_base(reference=reference, store=store, progress=progress)
    except NotFound as error:  # alone it would sound as if nobody else had been asked
        message = f"no image {reference.familiar}: {here}; {source}; {error.message}" if source else error.message
        raise NotFound(message, code=error.code, remedy=error.remedy or _REMEDY) from error
    if provided is not None:
        image = provided.image
        if not runs_on(image.config.platform, platform):  # providers make images for this machine
            why = f"{source}, and what is made here" if source else "this machine's root"
            raise NotFound(
                f"{reference.familiar} cannot be had for {platform}: {why} is for {image.config.platform}",
                code="platform-not-in-image",
                remedy="build without --platform" + (", or where the registry can be reached" if source else ""),
            )
        if reference.name != HOST_NAME:
            store.tag(reference, image.digest, source=provided.source)
        return _found(reference, image, provided.source, store, progress)
    if local is not None:
        progress.warn(f"{reference.familiar} could not be looked up anew: {source}; the local one is used")
        return _found(reference, store.image(local[0]), local[1], store, progress, local=True)
    raise NotFound(
        f"no image {reference.familiar}: {here}; {source}; no base provider makes it",
        code="base-not-found",
        remedy=_REMEDY,
    )


def _found(
    reference: Reference, image: Image, source: str, store: Store, progress: Progress, *, local: bool = False
) -> FoundBase:
    where = f"in the local store ({source})" if local else source
    progress.note(f"{reference.familiar}: {where}, {image.digest}")
    return FoundBase(
        image=image,
        trees=image_trees(image, store),
        source=BaseSource(name=reference.familiar, digest=image.digest, source=source, local=local),
    )
