"""What must be put within reach of a container whose root is nobody outside (``--userns=auto``). Pure; performs nothing.

Such a container's root is set up by a process that has no rights to this machine's files, not even to pass through the directories
above them. So whoever stands outside first mounts everything that is needed below the container's own directory, layers and volumes
with translated owners, host paths as they are; then that directory becomes the working directory, and all names are relative to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from contain.container.plan import Workspace
from contain.operations import (
    BindHostDirectory,
    EnterStage,
    MakeHostDirectory,
    MakeMountsPrivate,
    MountLayers,
    MountScratch,
    Operation,
    StageDevice,
    StageHostPath,
)
from contain.paths import HostPath
from contain.spec import Bind, ContainerSpec, CopyOnWrite, Mount, Volume
from contain.values import replace

_HERE = HostPath()
_MOST_DEVICES = 4096


def _translate_views(operations: Sequence[Operation], skeleton: str) -> list[Operation]:
    """The operations of `contain.container.plan.plan_outside` for the host's own root, whose owners are translated too: an overlay
    cannot be, only what it is made of."""
    found: list[Operation] = []
    for operation in operations:
        match operation:
            case BindHostDirectory(source=source, path=path):
                found.append(StageHostPath(source=source, path=path, translated=True))
            case MountLayers():
                found += [StageHostPath(source=skeleton, path=skeleton, translated=True), operation]
            case _:
                found.append(operation)
    return found


def plan_staging(
    spec: ContainerSpec, workspace: Workspace, outside: Sequence[Operation]
) -> tuple[ContainerSpec, Workspace, tuple[Operation, ...]]:
    """The spec and the workspace with names relative to the container's directory, and what makes these names true.

    ``outside``: what `contain.container.plan.plan_outside` wants before.
    """
    directory = workspace.directory
    operations = _translate_views(outside, str(workspace.skeleton)) or [MakeMountsPrivate()]
    ready = {operation.path for operation in operations if isinstance(operation, StageHostPath)}
    ready |= {operation.path for operation in operations if isinstance(operation, MountLayers)}
    own = set(ready)  # the container's directory is translated itself

    def stage(
        source: HostPath, *, translated: bool = True, beneath: HostPath | None = None, no_devices: bool = False
    ) -> HostPath:
        if str(source) in own:
            return source.relative_to(directory)
        name = f"stage{len(operations)}"
        above = None if beneath is None else str(beneath)
        operations.append(
            StageHostPath(
                source=str(source),
                path=str(directory / name),
                translated=translated,
                beneath=above,
                no_devices=no_devices,
            )
        )
        return HostPath(name)

    def moved(mount: Mount) -> Mount:
        match mount:
            case Bind(source=source, beneath=beneath):
                return replace(mount, source=stage(source, translated=False, beneath=beneath), beneath=None)
            case Volume(source=source):
                return replace(mount, source=stage(source))
            case CopyOnWrite(sources=sources):
                return replace(mount, sources=tuple(map(stage, sources)))
            case _:
                return mount

    devices = []
    if spec.devices:
        place = directory / "devices"
        operations += [
            MakeHostDirectory(path=str(place)),
            MountScratch(path=str(place), size_bytes=1 << 20, inodes=_MOST_DEVICES),
        ]
        first_id = 0 if workspace.ids is None else workspace.ids.first
        for number, device in enumerate(spec.devices):
            operations.append(StageDevice(source=str(device.source), path=str(place / str(number)), owner_id=first_id))
            devices.append(replace(device, source=HostPath("devices", str(number))))
    layers = () if spec.copied else tuple(map(stage, spec.layers))
    mounts = tuple(map(moved, spec.mounts))
    upper = None
    if spec.upper is not None:
        upper = stage(spec.upper, no_devices=True) if spec.copied else stage(spec.upper.parent) / spec.upper.name
    skeleton = str(workspace.skeleton)
    if any(getattr(operation, "path", "") == skeleton for operation in operations) and skeleton not in own:
        operations.append(StageHostPath(source=skeleton, path=skeleton, translated=True))
    if not workspace.skeleton.is_relative_to(directory):
        relative_skeleton = stage(workspace.skeleton)
    else:
        relative_skeleton = workspace.skeleton.relative_to(directory)
    moved_workspace = replace(
        workspace,
        directory=_HERE,
        skeleton=relative_skeleton,
        scratch=None if workspace.scratch is None else workspace.scratch.relative_to(directory),
    )
    operations.append(EnterStage(path=str(directory)))
    spec = replace(spec, layers=layers, mounts=mounts, upper=upper, devices=tuple(devices))
    return spec, moved_workspace, tuple(operations)
