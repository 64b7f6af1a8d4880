"""Makes a `Lock` of what a build made, and checks a build against one. Reads the store; builds nothing, writes nothing.

Each layer above the bases is read by itself: what its package databases say after it, and which files it brought. So the lock
says which *step* installed what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.attestation import BuildInputs, Dependency, StepLayer, take_inventory
from contain.attestation.image import tool_version
from contain.attestation.inventory import Component
from contain.attestation.purl import package_url
from contain.build.host_root import is_on_host
from contain.build.lock.compare import (
    Lock,
    LockedBase,
    LockedStage,
    LockedStep,
    Moved,
    Versions,
    compare_bases,
    compare_locks,
    moved_error,
)
from contain.build.lock.outline import layer_files, outline
from contain.build.record.tracing import EPOCH_NAME
from contain.build.record.values import BuildRecord, BuiltStage, BuiltStep, RemoteSource
from contain.build.request import BuildHost
from contain.environment.facts import looks_secret
from contain.errors import NotFound
from contain.oci import Image
from contain.reference import DEFAULT_DOMAIN, parse_reference
from contain.store import RootView
from contain.values import replace

if TYPE_CHECKING:
    from contain.environment.capture import DigestCache
    from contain.store import Store

_CONTEXT_LINES = 400
_OTHER_LINES = 24
_DATABASES = {"dpkg": ("/var/lib/dpkg/status",), "apk": ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")}
_ARCHIVE_STATE = re.compile(r"^Debian .*Release file of ")


def capture_lock(record: BuildRecord, image: Image, store: Store) -> Lock:
    """Everything that ``image`` was made of, read from the layers in the store."""
    unread: dict[str, str] = {}
    with store.file_digests() as digests:
        bases = {base.name: _base(base.name, base.digest, base.platform, base.source, store, unread) for base in record.bases}
        stages = []
        after: dict[str, Versions] = {}
        for stage in record.stages:
            kind, _, name = stage.base.partition(" ")
            start = after.get(name, {}) if kind == "stage" else bases[stage.base].packages if stage.base in bases else {}
            stages.append(_stage(stage, start, store, digests, unread, after))
    return Lock(
        image=image.digest,
        dockerfile=record.dockerfile,
        target=record.target,
        platform=record.platform,
        epoch_seconds=record.epoch_seconds,
        build_args=MappingProxyType(
            {name: None if looks_secret(name) else value for name, value in sorted(record.build_args.items())}
        ),
        options=record.options,
        bases=MappingProxyType(bases),
        sources=MappingProxyType({remote.uri: remote.digest or remote.commit for remote in record.remotes}),
        stages=tuple(stages),
        unread=MappingProxyType(unread),
        version=tool_version(),
    )


def check_lock(lock: Lock, record: BuildRecord, image: Image, store: Store) -> None:
    """Raises `IntegrityError` (code ``lock-moved``) with what moved, unless the build gave the locked image."""
    if image.digest == lock.image:
        return
    built = capture_lock(record, image, store)
    with store.file_digests() as digests:

        def files_of(layer: str) -> Mapping[str, str] | None:
            try:
                return layer_files(store.layer_tree(layer), digests=digests) if layer else {}
            except NotFound:
                return None

        rows = compare_locks(lock, built, files_of=files_of)
    raise moved_error(lock, rows, built=image.digest)


def base_moved(name: str, locked: LockedBase, image: Image, platform: str, source: str, store: Store) -> tuple[Moved, ...]:
    """What the rows say when a base is another one than the locked one."""
    now = _base(name, image.digest, platform, source, store, {})
    return tuple(compare_bases({name: locked}, {name: now}))


def locked_host(host: BuildHost, lock: Lock, *, build_args: Mapping[str, str], environ: Mapping[str, str]) -> BuildHost:
    """The machine's part with the lock's time, unless the caller asks for another one."""
    asked = build_args.get(EPOCH_NAME) or environ.get(EPOCH_NAME)
    return host if asked else replace(host, epoch_seconds=lock.epoch_seconds)


def _base(name: str, digest: str, platform: str, source: str, store: Store, unread: dict[str, str]) -> LockedBase:
    image = store.image(digest)
    packages: Versions = {}
    if is_on_host(image.config):
        unread[name] = "the packages of the machine's own root are not listed"
    else:
        with RootView(store.layer_trees(image)) as view:
            found = take_inventory(view, details=False)
        packages = versions_of(found.components)
        unread.update({f"{manager} in {name}": why for manager, why in found.unread.items()})
    states = [row.comment for row in image.config.history if _ARCHIVE_STATE.match(row.comment)]
    return LockedBase(digest=digest, platform=platform, source=source, state=states[0] if states else "", packages=packages)


def _stage(
    stage: BuiltStage,
    packages: Versions,
    store: Store,
    digests: DigestCache,
    unread: dict[str, str],
    after: dict[str, Versions],
) -> LockedStage:
    known = {manager: dict(rows) for manager, rows in packages.items()}
    steps = []
    for step in stage.steps:
        if step.layer is None:
            steps.append(LockedStep(text=step.text, from_context=step.from_context))
            continue
        if not store.has_layer(step.layer):  # taken from a cache elsewhere, and not needed here
            steps.append(LockedStep(text=step.text, layer=step.layer, from_context=step.from_context))
            continue
        tree = store.layer_tree(step.layer)
        with RootView((tree,)) as view:
            found = take_inventory(view, details=False)
            whole = {name for name, places in _DATABASES.items() if any(view.lookup(place) for place in places)}
        unread.update({f"{manager} in {step.text[:60]}": why for manager, why in found.unread.items()})
        now = versions_of(found.components)
        added: dict[str, Mapping[str, str]] = {}
        removed: dict[str, Mapping[str, str]] = {}
        for manager, rows in now.items():
            before = known.get(manager, {})
            new = {name: version for name, version in rows.items() if before.get(name) != version}
            if new:
                added[manager] = MappingProxyType(new)
            if manager in whole:
                gone = {name: version for name, version in before.items() if name not in rows}
                if gone:
                    removed[manager] = MappingProxyType(gone)
                known[manager] = dict(rows)
            else:
                known.setdefault(manager, {}).update(rows)
        steps.append(
            LockedStep(
                text=step.text,
                layer=step.layer,
                from_context=step.from_context,
                packages=MappingProxyType(added),
                removed=MappingProxyType(removed),
                files=MappingProxyType(outline(layer_files(tree, digests=digests), limit=_limit(step))),
            )
        )
    after[stage.name] = known
    return LockedStage(name=stage.name, base=stage.base, steps=tuple(steps))


def _limit(step: BuiltStep) -> int:
    return _CONTEXT_LINES if step.from_context else _OTHER_LINES


def versions_of(components: tuple[Component, ...]) -> dict[str, Mapping[str, str]]:
    """manager -> name -> the version; several are joined with commas, and one from no index says where it came from."""
    found: dict[str, dict[str, set[str]]] = {}
    for each in components:
        text = f"{each.version} from {each.local}" if each.local else each.version
        found.setdefault(each.manager, {}).setdefault(each.name, set()).add(text)
    return {
        manager: MappingProxyType({name: ", ".join(sorted(texts)) for name, texts in sorted(rows.items())})
        for manager, rows in sorted(found.items())
    }


def build_inputs(record: BuildRecord, *, lock: Lock | None) -> BuildInputs:
    """What the provenance says of a build."""
    bases = [
        Dependency(
            kind="base", uri=_base_uri(base.name.partition(" for ")[0], base.platform), digest=base.digest, name=base.name
        )
        for base in record.bases
    ]
    remotes = [
        Dependency(kind=_source_kind(each), uri=each.uri, digest=each.digest, commit=each.commit) for each in record.remotes
    ]
    networked = [f"{stage.name}: {step.text}" for stage in record.stages for step in stage.steps if step.networked]
    return BuildInputs(
        dockerfile=record.dockerfile,
        dockerfile_digest=record.dockerfile_digest,
        platform=record.platform,
        epoch_seconds=record.epoch_seconds,
        target=record.target,
        build_args=record.build_args,
        options=record.options,
        lock_digest=lock.digest if lock is not None else "",
        dependencies=(*bases, *remotes),
        networked=tuple(networked),
        layers=tuple(
            StepLayer(stage=stage.name, text=step.text, digest=step.layer)
            for stage in record.stages
            for step in stage.steps
            if step.layer is not None
        ),
    )


def _source_kind(source: RemoteSource) -> str:
    if source.commit:
        return "git"
    return "layout" if source.uri.startswith("pkg:oci/") else "url"


def _base_uri(name: str, platform: str) -> str:
    """A package URL of the type docker, as Docker's own provenance has it."""
    reference = parse_reference(name)
    namespace, _, bare = reference.path.rpartition("/")
    namespace = namespace.removeprefix("library") if reference.domain == DEFAULT_DOMAIN else f"{reference.domain}/{namespace}"
    version = reference.digest or reference.tag or ""
    return package_url("docker", bare, version, namespace=namespace, qualifiers={"platform": platform})
