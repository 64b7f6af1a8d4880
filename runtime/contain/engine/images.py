"""The engine's images: built, found, moved, named and removed. Each method names its decider and its doer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from contain.annotations import TYPE_CHECKING, Any, BinaryIO
from contain.errors import Conflict, ContainError, NotFound, NotSupported
from contain.paths import HostPath
from contain.progress import Progress, Silent
from contain.reference import Reference, parse_reference

if TYPE_CHECKING:
    from contain.archive.load import LoadedImage
    from contain.archive.plan import FileFormat, SavedImage
    from contain.build.checking import CheckReport
    from contain.build.request import BuildRequest, BuildResult
    from contain.build.verify.report import Verification
    from contain.oci import Image, Platform
    from contain.registry.push import Pushed
    from contain.store import PruneReport, StoredImage
from contain.engine.opened import HOST_IMAGE, Opened, ReadyImage


class Images(Opened):
    """What can be done to images."""

    def build(self, request: BuildRequest) -> BuildResult:
        """Decided by `contain.build.fold`, done by `contain.build.build`."""
        from contain.build.execute import build

        result = build(request, store=self.store, progress=self.progress)
        for reference in request.tags:
            self.note_image("tag", result.image, reference.familiar)
        return result

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

    def note_image(self, action: str, image: Image, name: str = "", *, identity: str = "") -> None:
        """Tell `contain events` what has happened to an image, with its labels, as Docker does. ``identity``: a name in place of the
        digest."""
        self.note("image", action, identity or image.digest, {**image.config.labels, "name": name or image.digest})

    def _note_transfer(self, action: str, image: Image, reference: Reference) -> None:
        bare = Reference(domain=reference.domain, path=reference.path, tag=None).familiar
        self.note_image(action, image, bare, identity=reference.familiar)

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
            self._note_transfer("pull", pull_image(reference, store=self.store, progress=self.progress), reference)
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
        if name != HOST_IMAGE:
            self._note_transfer("pull", found.image, reference)
        return ReadyImage(name=name, image=found.image, trees=found.trees, source=found.source.source)

    def pull(self, name: str, *, platform: Platform | None = None) -> ReadyImage:
        """``contain pull``: the image of a platform (default: this machine's) from a registry, whatever the store has."""
        from contain.build.host_root import image_trees
        from contain.registry.pull import pull

        reference = parse_reference(name)
        image = pull(reference, store=self.store, platform=platform, progress=self.progress)
        self._note_transfer("pull", image, reference)
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
        self._note_transfer("push", self.store.find_image(name), reference)
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
        image = self.find_image(name).image
        reference = parse_reference(new_name)
        self.store.tag(reference, image.digest, source="tagged")
        self.note_image("tag", image, reference.familiar)

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
        if not is_name and not image.digest.removeprefix("sha256:").startswith(name.removeprefix("sha256:")):
            raise NotFound(f"No such image: {name}", code="image-not-found", remedy="`contain images` lists them")  # just now
        if users and not force and (not is_name or len(names) <= 1):
            raise Conflict(
                f"conflict: unable to remove {name}: container {users[0].container_id[:12]} is using it",
                code="image-in-use",
                remedy=f"remove the container first (contain rm {users[0].name}), or use -f",
            )
        if is_name:
            if self.store.untag(reference) is None:  # somebody else was quicker
                raise NotFound(f"No such image: {name}", code="image-not-found", remedy="`contain images` lists them")
            self.note_image("untag", image, reference.familiar)
            done.append(f"Untagged: {reference.familiar}")
            if len(names) > 1:
                return tuple(done)
        elif len(names) > 1 and not force:
            raise Conflict(f"conflict: unable to delete {name}: it has several names", code="image-in-use", remedy="use -f")
        else:
            for other in names:
                known = parse_reference(other)
                self.store.untag(known)
                self.note_image("untag", image, known.familiar)
                done.append(f"Untagged: {known.familiar}")
        former = self.store.former_names(image.digest) if is_name and not force else ()
        if former:
            others = ", ".join(parse_reference(other).familiar for other in former)
            self.progress.note(f"{image.digest} stays until `contain image prune`: {others} can be rolled back to it")
        elif not users and self.store.remove_image(image.digest, only_unnamed=True).images:
            done.append(f"Deleted: {image.digest}")
            self.note_image("delete", image)
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
        saved = save_images(
            asked,
            compression=compression,
            form=form or FileFormat.DOCKER,
            output=output,
            store=self.store,
            progress=self.progress,
        )
        for image, _ in asked:
            self.note_image("save", image)
        return saved

    def look_at_image(self, name: str) -> tuple[Image, StoredImage, dict[str, Any], float, tuple[HostPath, ...]]:
        """What ``contain image inspect`` renders: an image, its row, its config as written, when it was last named, where its layers
        are."""
        import json

        image = self.find_image(name).image if name == HOST_IMAGE else self.store.find_image(name)
        row = next(row for row in self.images() if row.digest == image.digest)
        records = [record for known in row.names for record in self.store.name_history(parse_reference(known))[:1]]
        tagged = max((record.set_seconds for record in records), default=0)
        trees: tuple[HostPath, ...] = ()
        with contextlib.suppress(NotFound):
            trees = self.store.layer_trees(image)
        return image, row, json.loads(self.store.read_blob(image.manifest.config.digest)), tagged, trees

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
        loaded = load(source, store=self.store, progress=self.progress, platform=wanted)
        for each in loaded:
            self.note_image("load", each.image)
        return loaded

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
        self.note_image("tag", image, reference.familiar)
        self.note_image("import", image)
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
