"""The engine: a façade of nouns. Each method names its decider and its doer, and holds no logic that one of them could hold.

Open it with `Engine.open`; everything else is reached through it. The command line and the pytest plugin use these names only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from contain.errors import Conflict, ContainError, NotFound, NotSupported, UsageError
from contain.paths import HostPath, run_home, store_home
from contain.progress import Progress, Silent
from contain.reference import Reference, parse_reference
from contain.spec import Limits, Network
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.archive.load import LoadedImage
    from contain.archive.plan import FileFormat, SavedImage
    from contain.build.checking import CheckReport
    from contain.build.request import BuildRequest, BuildResult
    from contain.build.verify.report import Verification
    from contain.container.ended import ExitState
    from contain.container.execute import ExecRequest
    from contain.container.joined import Joined
    from contain.container.records import ContainerRecord, Records
    from contain.container.resolve import RunRequest
    from contain.container.sessions import Session
    from contain.container.volumes import Volumes
    from contain.declared import EnvironmentSettings
    from contain.environment import Environment, EnvironmentDiff
    from contain.oci import Image, ImageConfig, Platform
    from contain.registry.push import Pushed
    from contain.spec import ContainerSpec, Mount
    from contain.store import PruneReport, Store, StoredImage

__all__ = ["Completed", "Engine", "ReadyImage", "RunRequest"]


def __getattr__(name: str) -> object:
    if name == "RunRequest":  # what asks for a container brings more along than what only looks at one
        from contain.container.resolve import RunRequest

        return RunRequest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


HOST_IMAGE = "host"
_PROBE_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyImage:
    """An image that is here: its layer trees, lowest first, and where it came from."""

    name: str
    image: Image
    trees: tuple[HostPath, ...]
    source: str

    @property
    def config(self) -> ImageConfig:
        """What a container of it starts with."""
        return self.image.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ran in a container to its end."""

    exit_status: int
    stdout: bytes
    stderr: bytes
    state: ExitState


class Engine:
    """One store and one place for run-time state, with everything that can be done to them."""

    def __init__(self, *, home: HostPath, run: HostPath, progress: Progress) -> None:
        self.home = home
        self.run_home = run
        self.progress = progress

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, home: HostPath | None = None, *, run: HostPath | None = None, progress: Progress | None = None
    ) -> Iterator[Engine]:
        """Use the store at ``home`` (default: `contain.paths.store_home`)."""
        home = store_home() if home is None else home
        run = run_home() if run is None else run
        engine = cls(home=home, run=run, progress=progress or Silent())
        try:
            yield engine
        finally:
            if "store" in vars(engine):
                engine.store.close()

    @cached_property
    def store(self) -> Store:
        """The store, opened when it is first wanted: to start a container of an image that is here takes `contain.store.lookup`."""
        from contain.store.store import Store

        return Store.open(self.home)

    # -- images --------------------------------------------------------------------------------------------------------------

    def build(self, request: BuildRequest) -> BuildResult:
        """Decided by `contain.build.fold`, done by `contain.build.build`."""
        from contain.build.execute import build

        return build(request, store=self.store, progress=self.progress)

    def verify_build(self, request: BuildRequest) -> tuple[BuildResult, Verification]:
        """Build twice under different conditions and compare: `contain.build.verify.verify`."""
        from contain.build.verify.verify import verify

        return verify(request, store=self.store, progress=self.progress)

    def plan_build(self, request: BuildRequest) -> str:
        """What a build would do, as text."""
        from contain.build.plan import plan

        return plan(request, store=self.store)

    def explain_build(self, request: BuildRequest) -> str:
        """What of a build would come from the cache, and why the rest would not, as text."""
        from contain.build.execute import explain

        return "".join(f"{each}\n" for each in explain(request, store=self.store, progress=Silent()))

    def check_build(self, request: BuildRequest) -> CheckReport:
        """What the build checks find in the Dockerfile."""
        from contain.build.checking import check

        return check(request, store=self.store)

    def note(self, kind: str, action: str, identity: str, attributes: Mapping[str, str]) -> None:
        """Tell `contain events` what has happened."""
        from contain.store.journal import note

        note(self.home, kind, action, identity, attributes)

    def find_image(self, name: str) -> ReadyImage:
        """An image of the local store, by name, digest or beginning of a digest. Raises `NotFound`."""
        from contain.build.host_root import image_trees, with_host_root
        from contain.store.lookup import find_named

        if name == HOST_IMAGE:
            return self._base(parse_reference(HOST_IMAGE), name)
        if (found := find_named(self.home, name)) is not None:
            trees = with_host_root(found.image.config, found.trees)
            return ReadyImage(name=name, image=found.image, trees=trees, source=found.source)
        image = self.store.find_image(name)
        source = ""
        with contextlib.suppress(ContainError):
            known = self.store.name_source(parse_reference(name))
            source = known[1] if known is not None else ""
        return ReadyImage(name=name, image=image, trees=image_trees(image, self.store), source=source)

    def image(self, name: str, *, pull: str = "missing", platform: str | None = None) -> ReadyImage:
        """An image, wherever it comes from: the store, a registry, a base provider. ``pull``: missing, always or never.
        ``platform``: which of it, as ``linux/arm64``; None: this machine's, or what the store has.

        Raises `NotFound`, `RegistryError`.
        """
        if platform is not None:
            return self._image_for(name, pull, platform)
        if pull != "always":
            with contextlib.suppress(NotFound):
                return self.find_image(name)
            if pull == "never":
                raise NotFound(f"No such image: {name}", code="no-such-image", remedy="build it, or leave out --pull never")
        elif pull == "always":
            from contain.registry.pull import pull as pull_image

            reference = parse_reference(name)
            pull_image(reference, store=self.store, progress=self.progress)
            return self.find_image(name)
        return self._base(parse_reference(name), name)

    def _image_for(self, name: str, pull: str, text: str) -> ReadyImage:
        """The image of a platform. One that the store has for another platform is not taken for it."""
        from contain.registry.platform import parse_platform

        wanted = parse_platform(text)
        actual: Platform | None = None
        if pull != "always" or name == HOST_IMAGE:
            with contextlib.suppress(NotFound):
                found = self.find_image(name)
                actual = found.config.platform
                if (actual.os, actual.architecture) == (wanted.os, wanted.architecture):
                    return found
            if pull == "never" or name == HOST_IMAGE:
                said = "" if actual is None else f", actual: {actual}"
                raise NotFound(
                    f"image with reference {name} was found but does not match the specified platform: wanted {wanted}{said}"
                    if actual is not None
                    else f"No such image: {name}",
                    code="no-such-image",
                    remedy="build or pull it for that platform",
                )
        return self.pull(name, platform=wanted)

    def _base(self, reference: Reference, name: str) -> ReadyImage:
        from contain.build.bases import find_base
        from contain.registry.platform import host_platform
        from contain.registry.pull import pull

        def pull_image(reference: Reference, platform: Platform, progress: Progress) -> Image:
            return pull(reference, store=self.store, platform=platform, progress=progress)

        found = find_base(reference, host_platform(), self.progress, store=self.store, pull=pull_image)
        return ReadyImage(name=name, image=found.image, trees=found.trees, source=found.source.source)

    def pull(self, name: str, *, platform: Platform | None = None) -> ReadyImage:
        """``contain pull``: the image of a platform (default: this machine's) from a registry, whatever the store has."""
        from contain.build.host_root import image_trees
        from contain.registry.pull import pull

        reference = parse_reference(name)
        image = pull(reference, store=self.store, platform=platform, progress=self.progress)
        self.note("image", "pull", name, {"name": name})
        known = self.store.name_source(reference)
        return ReadyImage(
            name=name, image=image, trees=image_trees(image, self.store), source=known[1] if known is not None else ""
        )

    def provide(self, name: str) -> ReadyImage | None:
        """What a base provider makes (or made before) of a name, whatever else the store calls so; None if none does."""
        from contain.build.bases import base_providers
        from contain.build.host_root import image_trees

        reference = parse_reference(name)
        provided = base_providers().hook.contain_provide_base(reference=reference, store=self.store, progress=self.progress)
        if provided is None:
            return None
        if name != HOST_IMAGE:
            self.store.tag(reference, provided.image.digest, source=provided.source)
        trees = image_trees(provided.image, self.store)
        return ReadyImage(name=name, image=provided.image, trees=trees, source=provided.source)

    def push(self, name: str, *, compression: str = "", chunk_bytes: int = 0) -> Pushed:
        """``contain push``: see `contain.registry.push.push`. What is attached to the image goes along."""
        from contain.registry.push import push

        reference = parse_reference(name)
        pushed = push(reference, store=self.store, compression=compression, chunk_bytes=chunk_bytes, progress=self.progress)
        self._push_attestations(pushed)
        return pushed

    def _push_attestations(self, pushed: Pushed) -> None:
        """Those whose subject is the image as it was pushed, as referrers."""
        from contain.attestation import attestations_of

        attached = attestations_of(self.store, pushed.digest)
        if not attached:
            return
        from contain.registry.artifacts import bytes_blob, push_artifact
        from contain.registry.session import open_session

        with open_session(pushed.reference.domain, progress=self.progress) as session:
            for each in reversed(attached):  # the oldest first, as they were attached
                push_artifact(
                    pushed.reference,
                    pushed.digest,
                    artifact_type=each.artifact_type,
                    blob=bytes_blob(each.artifact_type, each.document),
                    annotations=each.annotations,
                    session=session,
                )
                self.progress.note(f"{each.artifact_type}: {each.digest}")

    def tags(self, name: str) -> tuple[str, ...]:
        """Every tag that the registry has for the name's repository, as whole names."""
        from contain.registry.pages import list_tags
        from contain.registry.session import open_session

        reference = parse_reference(name)
        with open_session(reference.domain, progress=self.progress) as session:
            return tuple(f"{reference.name}:{tag}" for tag in list_tags(session, reference))

    def names_of(self, name: str) -> tuple[str, ...]:
        """Every name of the store in the name's repository, sorted. Raises `NotFound`."""
        wanted = parse_reference(name).name
        found = sorted(
            other
            for row in self.store.images()
            for other in row.names
            if (reference := parse_reference(other)).name == wanted and reference.digest is None
        )
        if not found:
            raise NotFound(f"No such image: {wanted}", code="image-not-found")
        return tuple(found)

    def images(self) -> tuple[StoredImage, ...]:
        """Every image of the store."""
        return self.store.images()

    def tag(self, name: str, new_name: str) -> None:
        """Give an image one more name."""
        digest = self.find_image(name).image.digest
        self.store.tag(parse_reference(new_name), digest, source="tagged")
        self.note("image", "tag", digest, {"name": new_name})

    def remove_image(self, name: str, *, force: bool = False) -> tuple[str, ...]:
        """``contain rmi``: take the name away, and the image with its last name; what was done, a line each.

        Raises `Conflict` while a container uses it, unless ``force``.
        """
        image = self.store.find_image(name)
        users = [record for record in self.records.all() if record.image_digest == image.digest]
        names = next((row.names for row in self.store.images() if row.digest == image.digest), ())
        done = []
        is_name = False
        with contextlib.suppress(ContainError):
            reference = parse_reference(name)
            is_name = self.store.name_source(reference) is not None
        if users and not force and (not is_name or len(names) <= 1):
            raise Conflict(
                f"conflict: unable to remove {name}: container {users[0].container_id[:12]} is using it",
                code="image-in-use",
                remedy=f"remove the container first (contain rm {users[0].name}), or use -f",
            )
        if is_name:
            if self.store.untag(reference) is None:  # somebody else was quicker
                raise NotFound(f"No such image: {name}", code="image-not-found", remedy="`contain images` lists them")
            self.note("image", "untag", image.digest, {"name": reference.familiar})
            done.append(f"Untagged: {reference.familiar}")
            if len(names) > 1:
                return tuple(done)
        elif len(names) > 1 and not force:
            raise Conflict(f"conflict: unable to delete {name}: it has several names", code="image-in-use", remedy="use -f")
        else:
            for other in names:
                known = parse_reference(other)
                self.store.untag(known)
                done.append(f"Untagged: {known.familiar}")
        former = self.store.former_names(image.digest) if is_name and not force else ()
        if former:
            others = ", ".join(parse_reference(other).familiar for other in former)
            self.progress.note(f"{image.digest} stays until `contain image prune`: {others} can be rolled back to it")
        elif not users and self.store.remove_image(image.digest, only_unnamed=True).images:
            done.append(f"Deleted: {image.digest}")
            self.note("image", "delete", image.digest, {"name": image.digest})
        return tuple(done)

    def save(
        self,
        names: Sequence[str],
        output: HostPath | BinaryIO,
        *,
        form: FileFormat | None = None,
        compression: str | None = None,
    ) -> tuple[SavedImage, ...]:
        """``contain save``: images as one file (default: `FileFormat.DOCKER`); ``compression``: gzip, zstd, none, or None to
        keep what each layer has. Decided by `contain.archive.plan`, done by `contain.archive.save`."""
        from contain.archive.plan import FileFormat, join_names
        from contain.archive.save import save_images
        from contain.build.host_root import is_on_host

        asked = join_names((name, self.store.find_image(name)) for name in names)
        for image, _ in asked:
            if is_on_host(image.config):
                raise NotSupported(
                    f"image {image.digest} stands on this machine's root, which a file cannot hold",
                    code="image-on-host",
                    remedy="build it on another base than `host`",
                )
        return save_images(
            asked,
            compression=compression,
            form=form or FileFormat.DOCKER,
            output=output,
            store=self.store,
            progress=self.progress,
        )

    def look_at_image(self, name: str) -> tuple[Image, StoredImage, dict[str, Any], float]:
        """What ``contain image inspect`` renders: an image, its row, its config as written, when it was last named."""
        import json

        image = self.find_image(name).image if name == HOST_IMAGE else self.store.find_image(name)
        row = next(row for row in self.images() if row.digest == image.digest)
        records = [record for known in row.names for record in self.store.name_history(parse_reference(known))[:1]]
        tagged = max((record.set_seconds for record in records), default=0)
        return image, row, json.loads(self.store.read_blob(image.manifest.config.digest)), tagged

    def describe_manifest(self, name: str, *, verbose: bool = False) -> dict[str, Any]:
        """``contain manifest inspect``: an image's manifest as JSON values; ``verbose``: in Docker's wrapping."""
        import json

        ready = self.store.find_image(name)
        data = self.store.read_blob(ready.digest)
        value: dict[str, Any] = json.loads(data)
        if not verbose:
            return value
        platform = ready.config.platform
        return {
            "Ref": ready.digest if ready.digest.startswith((name, f"sha256:{name}")) else str(parse_reference(name)),
            "Descriptor": {
                "mediaType": ready.manifest.media_type,
                "digest": ready.digest,
                "size": len(data),
                "platform": {"architecture": platform.architecture, "os": platform.os}
                | ({"variant": platform.variant} if platform.variant else {}),
            },
            "SchemaV2Manifest" if "docker" in ready.manifest.media_type else "OCIManifest": value,
        }

    def load(self, source: HostPath | BinaryIO, *, platform: str | None = None) -> tuple[LoadedImage, ...]:
        """``contain load``: every image of a file, directory or stream. Decided by `contain.archive.layout`, done by
        `contain.archive.load`."""
        from contain.archive.load import load
        from contain.registry.platform import parse_platform

        wanted = None if platform is None else parse_platform(platform)
        return load(source, store=self.store, progress=self.progress, platform=wanted)

    def import_image(self, archive: BinaryIO, name: str) -> Image:
        """``contain import``: any root file system as a tar archive becomes an image of one layer."""
        from contain.oci import Descriptor, ImageConfig
        from contain.oci.image import MEDIA_LAYER, History
        from contain.registry.platform import host_platform
        from contain.store import DEFAULT_EPOCH_SECONDS

        reference = parse_reference(name)
        diff_id = self.store.import_layer(archive, progress=self.progress)
        created = "2000-01-01T00:00:00Z"
        assert DEFAULT_EPOCH_SECONDS == 946_684_800  # the time above
        config = ImageConfig(
            platform=host_platform(),
            created=created,
            diff_ids=(diff_id,),
            history=(History(created=created, created_by="contain import"),),
        )
        layer = Descriptor(media_type=MEDIA_LAYER, digest=diff_id, size=self.store.layer_size(diff_id))
        image = self.store.put_image(config, [layer], source="imported")
        self.store.tag(reference, image.digest, source="imported")
        self.note("image", "import", image.digest, {"name": name})
        return image

    def lock(self, request: BuildRequest) -> str:
        """``contain lock``: build, and give the lock file's text. Read from the layers by `contain.build.lock.capture`."""
        from contain.build.lock.capture import capture_lock
        from contain.build.lock.file import render_lock

        result = self.build(request)
        return render_lock(capture_lock(result.record, result.image, self.store))

    def attach_provenance(self, result: BuildResult, request: BuildRequest) -> bytes:
        """Keep with a built image how it was made; the statement's bytes."""
        from contain.attestation import attach_provenance
        from contain.build.lock.capture import build_inputs

        return attach_provenance(result.image, self.store, build_inputs(result.record, lock=request.lock)).document

    def sbom(self, name: str, *, attach: bool = False) -> bytes:
        """An image's bill of materials, CycloneDX: the attached one, else a new one. ``attach``: make it anew and attach it."""
        from contain.attestation import image_sbom
        from contain.build.host_root import is_on_host

        image = self.find_image(name).image
        return image_sbom(image, self.store, on_host=is_on_host(image.config), keep=attach)

    def provenance(self, name: str) -> bytes:
        """How an image was made, if it was built with that. Raises `NotFound` (code ``no-provenance``)."""
        from contain.attestation import image_provenance

        return image_provenance(self.find_image(name).image, self.store)

    def prune(self) -> PruneReport:
        """``contain system prune``: remove what no name, container or cache row in use reaches."""
        from contain.container.workspaces import sweep, sweep_groups_without_owner

        sweep(self.run_home)
        sweep_groups_without_owner()
        return self.store.prune(keep=[record.image_digest for record in self.records.all()])

    # -- containers ----------------------------------------------------------------------------------------------------------

    @property
    def records(self) -> Records:
        """The containers on record."""
        from contain.container.records import Records

        return Records(self.home)

    def specify(self, request: RunRequest, ready: ReadyImage | None = None, *, recorded: bool = True) -> ContainerSpec:
        """From what was asked to a spec. Decided by `contain.container.resolve.resolve_spec`.

        ``recorded``: what it writes is kept with its record; otherwise thrown away.
        """
        from contain.container.identity import add_groups, home_of, parse_identity, read_account_files
        from contain.container.resolve import check_name, resolve_spec
        from contain.container.run import new_container_id

        ready = self.image(request.image) if ready is None else ready
        passwd, group = read_account_files(ready.trees)
        identity = parse_identity(request.user or ready.config.user, passwd, group)
        around = request.surroundings
        identity = add_groups(identity, around.added_groups, group)
        if around.ipc_container:
            whose = self.records.find(around.ipc_container).container_id
            request = replace(request, surroundings=replace(around, ipc_container=whose))
        container_id = request.container_id or new_container_id()
        if request.networking.endpoints or request.networking.container:
            from contain.container.networking import settle

            request = replace(request, networking=settle(request.networking, self.home))
        return resolve_spec(
            request,
            container_id=container_id,
            name=check_name(request.name) if request.name else self.records.new_name() if recorded else container_id[:12],
            image_digest=ready.image.digest,
            config=ready.config,
            layers=ready.trees,
            upper=self.records.place(container_id) / "upper" if recorded else None,
            identity=identity,
            home=home_of(identity, passwd),
            store=self.home,
            inherited=self._inherited(request),
            image_volumes=recorded,
        )

    def _inherited(self, request: RunRequest) -> tuple[Mount, ...]:
        """What ``--volumes-from`` brings; of two containers with the same target, the later one's."""
        if not request.volumes_from:
            return ()
        from contain.container.mounts import inherit_mounts

        found: dict[str, Mount] = {}
        for each in request.volumes_from:
            details = self.records.find(each.container).details
            found |= {str(mount.target): mount for mount in inherit_mounts(details, read_only=each.read_only)}
        return tuple(found.values())

    @property
    def volumes(self) -> Volumes:
        """The volumes of the store."""
        from contain.container.volumes import Volumes

        return Volumes(self.home)

    def volume_users(self) -> dict[str, list[str]]:
        """Which containers, by id, have which volume, by name."""
        from contain.container.volumes import volume_users

        return volume_users([(record.container_id, record.details) for record in self.records.all()])

    def prune_volumes(self) -> tuple[list[str], int]:
        """``contain system prune --volumes``: names of the volumes without a name that went, and bytes set free."""
        return self.volumes.prune(self.volume_users, everything=False, wanted=lambda _: True)

    def plan_run(self, request: RunRequest, ready: ReadyImage | None = None) -> str:
        """What ``contain run`` would ask of the kernel, a line for each operation."""
        from contain.container.plan import Workspace
        from contain.container.run import plan_for
        from contain.operations import render_operation

        spec = self.specify(request, ready)
        place = self.run_home / "work" / spec.container_id
        plan = plan_for(spec, Workspace(directory=place, skeleton=place / "skeleton"))
        return "".join(
            render_operation(operation) + "\n" for part in (plan.outside, plan.root, plan.start) for operation in part
        )

    def run(
        self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool, joined: Joined | None = None
    ) -> ExitState | None:
        """``contain run`` in the foreground, on the caller's standard descriptors; None if they were let go of before its end."""
        from contain.container.joined import Joined
        from contain.container.lifecycle import run_foreground

        return run_foreground(
            self.specify(request, ready),
            store_home=self.home,
            home=self.run_home,
            remove=remove,
            joined=joined or Joined(stdin=request.interactive),
        )

    def run_detached(self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool) -> str:
        """``contain run -d``: the id of the container, once its program runs."""
        from contain.container.lifecycle import run_detached

        return run_detached(self.specify(request, ready), store_home=self.home, home=self.run_home, remove=remove)

    def create(self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool) -> str:
        """``contain create``: the id of a container that can be started."""
        from contain.container.lifecycle import create_container

        return create_container(self.specify(request, ready), store_home=self.home, remove=remove)

    def commit(
        self,
        record: ContainerRecord,
        name: str | None,
        *,
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> Image:
        """``contain commit``: what a container wrote as one more layer on its image. Decided by `contain.container.contents` and
        `contain.container.instructions`."""
        from contain.container.contents import commit_layer, held_still, history_of, plan_commit, trees_of
        from contain.container.instructions import apply_change
        from contain.oci import Descriptor
        from contain.oci.image import MEDIA_LAYER
        from contain.store import DEFAULT_EPOCH_SECONDS

        reference = parse_reference(name) if name else None
        trees = trees_of(self.records, record)
        base = self.store.image(record.image_digest)
        config = plan_commit(base.config, record)
        for change in changes:
            config = apply_change(config, change)
        with self.store.lease(base.digest):
            with held_still(record, wanted=pause):
                made = commit_layer(self.store, trees, DEFAULT_EPOCH_SECONDS)
            created = "2000-01-01T00:00:00Z"  # DEFAULT_EPOCH_SECONDS
            row = history_of(created, record=record, comment=message, author=author, empty=made is None)
            layers = [*base.manifest.layers]
            if made is not None:
                layers.append(Descriptor(media_type=MEDIA_LAYER, digest=made[0], size=made[1]))
            config = replace(
                config,
                created=created,
                author=author or config.author,
                diff_ids=(*base.config.diff_ids, *(() if made is None else (made[0],))),
                history=(*base.config.history, row),
            )
            image = self.store.put_image(config, layers, source="commit")
        if reference is not None:
            self.store.tag(reference, image.digest, source="commit")
        return image

    def run_captured(self, request: RunRequest, *, ready: ReadyImage | None = None, stdin: bytes = b"") -> Completed:
        """Run a program in a container of its own, without a record, and collect what it printed."""
        import tempfile

        from contain.container.run import run
        from contain.container.workspaces import sweep

        sweep(self.run_home)
        spec = self.specify(request, ready, recorded=False)
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            source.write(stdin)
            source.seek(0)
            state = run(spec, stdin=source.fileno(), stdout=out.fileno(), stderr=err.fileno(), home=self.run_home)
            out.seek(0)
            err.seek(0)
            return Completed(exit_status=state.status, stdout=out.read(), stderr=err.read(), state=state)

    def specify_exec(
        self,
        record: ContainerRecord,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        working_directory: str | None = None,
        terminal: bool = False,
    ) -> ExecRequest:
        """What ``contain exec`` will run: the container's own user, variables and directory under the given ones."""
        from contain.container.execute import ExecRequest
        from contain.container.identity import resolve_identity
        from contain.spec import Identity

        details = record.details
        if not user:
            own = details["identity"]
            identity = Identity(user_id=own["user_id"], group_id=own["group_id"], groups=tuple(own["groups"]))
        else:
            upper = Path(details["upper"] or "/nonexistent")  # who was added inside is known too
            trees = [Path(layer) for layer in details["layers"]] + ([upper] if upper.is_dir() else [])
            identity = resolve_identity(user, trees)
        variables = dict(details["environment"]) | dict(environment or {})
        return ExecRequest(
            arguments=tuple(arguments),
            environment=tuple(variables.items()),
            working_directory=working_directory or details["working_directory"],
            identity=identity,
            terminal=terminal,
        )

    # -- test sessions -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def test_session(self, request: RunRequest, ready: ReadyImage, *, scratch_bytes: int) -> Iterator[Session]:
        """The containers of one test suite in one image: `contain.container.sessions.open_session`."""
        from contain.container.sessions import open_session

        request = replace(request, network=Network.NONE, arguments=request.arguments or ("worker",))
        spec = self.specify(request, ready, recorded=False)
        with open_session(spec, scratch_bytes=scratch_bytes, home=self.run_home) as session:
            yield session

    # -- environments --------------------------------------------------------------------------------------------------------

    def environment_image(self, settings: EnvironmentSettings) -> ReadyImage:
        """The image of a declared environment, built from cache or looked up."""
        from contain.build.host_root import image_trees
        from contain.build.request import BuildRequest

        if settings.dockerfile is not None:
            context = settings.context or settings.dockerfile.parent
            result = self.build(
                BuildRequest(
                    context=context,
                    dockerfile=settings.dockerfile,
                    target=settings.target,
                    build_args=dict(settings.build_args),
                )
            )
            trees = image_trees(result.image, self.store)
            return ReadyImage(name=settings.name, image=result.image, trees=trees, source="build")
        return self.image(settings.image or HOST_IMAGE)

    def environment_request(self, settings: EnvironmentSettings, ready: ReadyImage) -> RunRequest:
        """How a container of a declared environment is run."""
        from contain.container.resolve import RunRequest

        passed = tuple((name, os.environ[name]) for name in settings.pass_env if name in os.environ)
        limits = Limits(memory_bytes=settings.memory_bytes, cpus=settings.cpus)
        if settings.pids_limit is not None:
            limits = replace(limits, pids=settings.pids_limit)
        return RunRequest(
            image=ready.name,
            environment=(*passed, *settings.env),
            user=settings.user,
            network=Network.NONE,
            limits=limits,
        )

    def capture(self, place: str, *, directory: HostPath | None = None) -> Environment:
        """The facts of ``host``, a declared environment, an image, or a file that `contain capture` wrote.

        Names of environments are looked up in the ``pyproject.toml`` of ``directory`` (default: the present one) first.
        """
        from contain.container.resolve import RunRequest
        from contain.declared import find_environment, read_environments
        from contain.environment import load_environment

        path = Path(place)
        if place != HOST_IMAGE and path.is_file():
            return load_environment(path.read_bytes())
        directory = directory or Path.cwd()
        settings = None
        with contextlib.suppress(NotFound):
            settings = find_environment(place, directory, read_environments(directory / "pyproject.toml"))
        if settings is not None and not (settings.is_host and place == HOST_IMAGE):
            ready = self.environment_image(settings)
            return self._capture_image(replace(ready, name=place), self.environment_request(settings, ready))
        if place == HOST_IMAGE:
            return self._capture_host()
        try:
            ready = self.image(place)
        except NotFound as error:
            raise UsageError(
                f"{place!r} is no environment, image or file of captured facts",
                code="no-such-place",
                remedy="name an environment of pyproject.toml, an image (`contain images`), `host`, or a file that `contain "
                "capture` wrote",
            ) from error
        return self._capture_image(ready, RunRequest(image=place, network=Network.NONE))

    def _capture_host(self) -> Environment:
        """This machine as this process sees it."""
        import sys

        from contain.environment import probe_here, read_secret_key, with_runtime

        key = read_secret_key(self.home)
        told = probe_here((sys.executable,), secret_key=key)
        return with_runtime(self._capture_host_files(HOST_IMAGE, key), told.facts, told.missing)

    def _capture_host_files(self, name: str, key: bytes) -> Environment:
        from contain.environment import capture_host

        with self.store.file_digests() as digests:
            return capture_host(name=name, secret_key=key, skip=(str(self.home), str(self.run_home)), digests=digests)

    def _capture_image_files(self, ready: ReadyImage, key: bytes) -> Environment:
        from contain.environment import capture_image
        from contain.store import RootView

        with self.store.file_digests() as digests:
            return capture_image(
                ready.image, RootView(ready.trees), name=ready.name, secret_key=key, source=ready.source, digests=digests
            )

    def _capture_image(self, ready: ReadyImage, request: RunRequest) -> Environment:
        """An image's files, and what a probe in a container of it says. On the machine's own root, its files are the machine's."""
        from contain.build.host_root import is_on_host
        from contain.environment import PROBE_COMMAND, SHELL_PROBE, parse_probe, python_probe, read_secret_key, with_runtime

        key = read_secret_key(self.home)
        on_host = is_on_host(ready.config)
        captured = self._capture_host_files(ready.name, key) if on_host else self._capture_image_files(ready, key)
        probe = replace(request, entrypoint="/bin/sh", arguments=("-c", PROBE_COMMAND))
        try:
            done = self.run_captured(probe, ready=ready, stdin=python_probe(key).encode())
            if done.stdout.strip() == b"no-python":
                done = self.run_captured(replace(probe, arguments=("-c", SHELL_PROBE)), ready=ready)
            told = parse_probe(done.stdout[:_PROBE_LIMIT_BYTES], secret_key=key)
        except ContainError as error:
            why = f"the probe did not run in a container of it: {error.message}"
            return with_runtime(captured, {}, {"runtime": why})
        return with_runtime(captured, told.facts, told.missing)

    def diff(self, a: str, b: str, *, directory: HostPath | None = None) -> EnvironmentDiff:
        """What differs between two places: `contain.environment.compare`."""
        from contain.environment import compare

        return compare(self.capture(a, directory=directory), self.capture(b, directory=directory))
