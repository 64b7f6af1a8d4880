"""The engine's containers: specified, started, looked into. Each method names its decider and its doer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.reference import parse_reference
from contain.spec import Network
from contain.values import replace

if TYPE_CHECKING:
    from contain.container.execute import ExecRequest
    from contain.container.files.volumes import VolumeRecord, Volumes
    from contain.container.lifecycle.ended import ExitState
    from contain.container.lifecycle.records import ContainerRecord
    from contain.container.request.resolve import RunRequest
    from contain.container.session.session import Session
    from contain.container.terminal.joined import Joined
    from contain.oci import Image
    from contain.spec import ContainerSpec, Mount
from contain.engine.images import Images
from contain.engine.opened import Completed, ReadyImage


class Containers(Images):
    """What can be done to containers, and to the images they are made of."""

    def specify(self, request: RunRequest, ready: ReadyImage | None = None, *, recorded: bool = True) -> ContainerSpec:
        """From what was asked to a spec. Decided by `contain.container.request.resolve.resolve_spec`.

        ``recorded``: what it writes is kept with its record; otherwise thrown away.
        """
        from contain.container.request.identity import add_groups, home_of, parse_identity, read_account_files
        from contain.container.request.resolve import check_name, resolve_spec
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
            from contain.container.network.networking import settle

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
        from contain.container.request.mounts import inherit_mounts

        found: dict[str, Mount] = {}
        for each in request.volumes_from:
            details = self.records.find(each.container).details
            found |= {str(mount.target): mount for mount in inherit_mounts(details, read_only=each.read_only)}
        return tuple(found.values())

    @property
    def volumes(self) -> Volumes:
        """The volumes of the store."""
        from contain.container.files.volumes import Volumes

        return Volumes(self.home)

    def volume_users(self) -> dict[str, list[str]]:
        """Which containers, by id, have which volume, by name."""
        from contain.container.files.volumes import volume_users

        return volume_users([(record.container_id, record.details) for record in self.records.all()])

    def prune_volumes(self, wanted: Callable[[VolumeRecord], bool] = lambda _: True) -> tuple[list[str], int]:
        """``contain system prune --volumes``: names of the volumes without a name that went, and bytes set free."""
        return self.volumes.prune(self.volume_users, everything=False, wanted=wanted)

    def plan_run(self, request: RunRequest, ready: ReadyImage | None = None) -> str:
        """What ``contain run`` would ask of the kernel, a line for each operation."""
        from contain.container.plan import Workspace
        from contain.container.run import plan_for
        from contain.container.storage import Storage, storage_for
        from contain.operations import render_operation

        spec = self.specify(request, ready)
        spec = replace(spec, copied=storage_for(spec.layers, self.home, thrown_away=False) is Storage.COPY)
        place = self.run_home / "work" / spec.container_id
        plan = plan_for(spec, Workspace(directory=place, skeleton=place / "skeleton"))
        return "".join(
            render_operation(operation) + "\n" for part in (plan.outside, plan.root, plan.start) for operation in part
        )

    def run(
        self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool, joined: Joined | None = None
    ) -> ExitState | None:
        """``contain run`` in the foreground, on the caller's standard descriptors; None if they were let go of before its end."""
        from contain.container.lifecycle.verbs import run_foreground
        from contain.container.terminal.joined import Joined

        return run_foreground(
            self.specify(request, ready),
            store_home=self.home,
            home=self.run_home,
            remove=remove,
            joined=joined or Joined(stdin=request.interactive),
        )

    def run_detached(self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool) -> str:
        """``contain run -d``: the id of the container, once its program runs."""
        from contain.container.lifecycle.verbs import run_detached

        return run_detached(self.specify(request, ready), store_home=self.home, home=self.run_home, remove=remove)

    def create(self, request: RunRequest, ready: ReadyImage | None = None, *, remove: bool) -> str:
        """``contain create``: the id of a container that can be started."""
        from contain.container.lifecycle.verbs import create_container

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
        """``contain commit``: what a container wrote as one more layer on its image. Decided by `contain.container.files.contents` and
        `contain.container.instructions`."""
        from contain.container.files.contents import commit_layer, held_still, history_of, plan_commit, trees_of
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
            self.note_image("tag", image, reference.familiar)
        named = {} if reference is None else {"imageRef": reference.familiar}
        self.records.tell(record, "commit", {"comment": message, "imageID": image.digest, **named})
        return image

    def run_captured(self, request: RunRequest, *, ready: ReadyImage | None = None, stdin: bytes = b"") -> Completed:
        """Run a program in a container of its own, without a record, and collect what it printed."""
        import tempfile

        from contain.container.run import run
        from contain.container.workspaces import sweep

        sweep(self.run_home)
        spec = self.specify(request, ready, recorded=False)
        with (
            self.store.lease(spec.image_digest),  # there is no record that keeps it from being pruned
            tempfile.TemporaryFile() as source,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
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
        privileged: bool = False,
    ) -> ExecRequest:
        """What ``contain exec`` will run: the container's own user, variables and directory under the given ones."""
        from contain.container.execute import ExecRequest
        from contain.container.request.identity import resolve_identity
        from contain.spec import Identity

        details = record.details
        if not user:
            own = details["identity"]
            identity = Identity(user_id=own["user_id"], group_id=own["group_id"], groups=tuple(own["groups"]))
        else:
            upper = Path(details["upper"] or "/nonexistent")  # who was added inside is known too
            below = [] if details.get("copied") and upper.is_dir() else [Path(layer) for layer in details["layers"]]
            trees = below + ([upper] if upper.is_dir() else [])
            identity = resolve_identity(user, trees)
        variables = dict(details["environment"]) | dict(environment or {})
        return ExecRequest(
            arguments=tuple(arguments),
            environment=tuple(variables.items()),
            working_directory=working_directory or details["working_directory"],
            identity=identity,
            terminal=terminal,
            privileged=privileged,
        )

    @contextlib.contextmanager
    def test_session(self, request: RunRequest, ready: ReadyImage, *, scratch_bytes: int) -> Iterator[Session]:
        """The containers of one test suite in one image: `contain.container.session.session.open_session`."""
        from contain.container.session.session import open_session
        from contain.container.storage import open_plain_layers

        request = replace(request, network=Network.NONE, arguments=request.arguments or ("worker",))
        spec = self.specify(request, ready, recorded=False)
        # There is no record that keeps the image from being pruned.
        with (
            self.store.lease(spec.image_digest),
            open_plain_layers(spec, self.run_home) as plain,
            open_session(plain, scratch_bytes=scratch_bytes, home=self.run_home) as session,
        ):
            yield session
