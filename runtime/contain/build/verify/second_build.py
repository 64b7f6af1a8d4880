"""The second build of ``contain build --verify``: under which conditions it runs, and the process that it runs in.

It is a child process, because umask, CPUs, host name and directories belong to a process. What it says comes back as lines of JSON; its
store is its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from contain.annotations import IO, Any
from contain.build.execute import build
from contain.build.record.values import BuildRecord
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.run.memory import open_memory_directory
from contain.build.verify.report import Varied
from contain.errors import BuildStepFailed, ContainError, NotSupported
from contain.oci.image import MEDIA_LAYER
from contain.paths import HostPath
from contain.progress import Progress, Silent
from contain.store import Store
from contain.store.rooted import Root
from contain.store.tree import iterate_tree
from contain.values import dataclass, replace

_CONTEXT_LIMIT_BYTES = 256 << 20
_CONTEXT_LIMIT_FILES = 20_000
_HOSTNAME = "second-machine"
_UMASK = 0o077
_DEAD_STATUS = 70


def layers_of(record: BuildRecord) -> list[str]:
    """The diff_ids of every layer that a build made."""
    return [step.layer for stage in record.stages for step in stage.steps if step.layer is not None]


# -- conditions -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where and how the second build runs. ``context``: None for the same as the first's."""

    home: HostPath
    temporary: HostPath
    context: HostPath | None
    cpus: frozenset[int]
    varied: tuple[Varied, ...]
    same: tuple[str, ...]


def open_place(first: BuildResult, store: Store, stack: contextlib.ExitStack) -> HostPath:
    """A directory for the second store: in memory if there is plenty."""
    from contain.container.workspaces import memory_takes_attributes

    needed = sum(layer.size for layer in first.image.manifest.layers)
    needed += sum(store.layer_size(layer) for layer in set(layers_of(first.record)))
    if memory_takes_attributes() and 4 * needed < _available_bytes():
        with contextlib.suppress(NotSupported):
            return stack.enter_context(open_memory_directory())
    return stack.enter_context(store.scratch("verify"))


def _available_bytes() -> int:
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text()
        match = re.search(r"MemAvailable:\s+(\d+) kB", text)
        space = os.statvfs("/dev/shm")
        return min(int(match[1]) * 1024 if match else 0, space.f_bavail * space.f_frsize)
    return 0


def prepare(request: BuildRequest, place: HostPath, home: HostPath) -> Conditions:
    """Lay everything out below ``place``. ``home``: the first build's store."""
    second_home, temporary = place / "store", place / "tmp"
    for directory in (second_home, temporary):
        directory.mkdir(mode=0o700)
    context = None
    varied, same = [], []
    umask = os.umask(0)
    os.umask(umask)
    varied.append(Varied(what="umask", first=f"{umask:04o}", second=f"{_UMASK:04o}"))
    varied.append(Varied(what="temporary directory", first=tempfile.gettempdir(), second="another"))
    varied.append(Varied(what="time zone and language", first=_languages(os.environ), second="Pacific/Kiritimati, fr_FR.UTF-8"))
    if os.geteuid() == 0:
        varied.append(Varied(what="host name of the machine", first=os.uname().nodename, second=_HOSTNAME))
    else:
        same.append("the host's name: needs root")
    cpus = frozenset(os.sched_getaffinity(0))
    if len(cpus) > 1:
        varied.append(Varied(what="CPUs", first=str(len(cpus)), second="1"))
        cpus = frozenset([max(cpus)])
    else:
        same.append("the number of CPUs: this machine has one")
    if place.stat().st_dev != home.stat().st_dev:
        names = _file_system(home), _file_system(place)
        varied.append(Varied(what="file system, directory order, inodes", first=names[0], second=names[1]))
    else:
        same.append("the file system and its directory order: there is too little memory for a second store")
    if request.context is None or request.context_name:
        same.append("the context")
    elif not (why := _copy_context(request.context, place / "context", strict=request.strict_modes)):
        context = place / "context"
        varied.append(Varied(what="context: path, order, times, modes", first=str(request.context), second="a copy"))
    else:
        same.append(f"the context: {why}")
    varied.append(Varied(what="time", first="now", second="seconds later"))
    same.append("the day: no process can have a wall clock of its own; files that hold today's date are searched for instead")
    same.append("the kernel, the processor, the mirror and what it offers today")
    same.append("what is the same for every RUN of contain: host name, umask, process numbers, TMPDIR, time zone")
    return Conditions(home=second_home, temporary=temporary, context=context, cpus=cpus, varied=tuple(varied), same=tuple(same))


def _file_system(path: HostPath) -> str:
    """Its type, as proc_pid_mountinfo(5) names it."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0]
    return "another"


def _languages(environ: Mapping[str, str]) -> str:
    return ", ".join((environ.get("TZ") or "the machine's", environ.get("LC_ALL") or environ.get("LANG") or "C"))


def _copy_context(source: HostPath, target: HostPath, *, strict: bool) -> str:
    """The same names and contents, written in the opposite order, with other times and, where they do not count, modes. Why it could
    not be done, or nothing."""
    with Root(source) as root:
        try:
            nodes = [(node.path, node.found) for node in iterate_tree(root)]
        except (OSError, ContainError):
            return "not all of it can be read"
    if len(nodes) > _CONTEXT_LIMIT_FILES or sum(found.st_size for _, found in nodes) > _CONTEXT_LIMIT_BYTES:
        return f"more than {_CONTEXT_LIMIT_BYTES >> 20} MiB or {_CONTEXT_LIMIT_FILES} files"
    target.mkdir()
    for path, found in nodes:
        if stat.S_ISDIR(found.st_mode):
            (target / os.fsdecode(path)).mkdir()
    for path, found in reversed(nodes):
        original, copy = source / os.fsdecode(path), target / os.fsdecode(path)
        try:
            if stat.S_ISLNK(found.st_mode):
                copy.symlink_to(os.readlink(original))
                continue
            if stat.S_ISREG(found.st_mode):
                shutil.copyfile(original, copy)
            elif not stat.S_ISDIR(found.st_mode):
                continue
        except OSError as error:
            shutil.rmtree(target, ignore_errors=True)
            return f"{os.fsdecode(path)} cannot be copied: {error.strerror}"
        copy.chmod(stat.S_IMODE(found.st_mode) if strict else stat.S_IMODE(found.st_mode) & 0o700)
    return ""


# -- the second build -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondBuild:
    """What the child says: the image's digest, and for each stage the layers of its steps."""

    digest: str
    stages: tuple[tuple[str | None, ...], ...]


def run_second(
    conditions: Conditions, request: BuildRequest, record: BuildRecord, store: Store, host: BuildHost, progress: Progress
) -> SecondBuild:
    """Build in a child process, under the conditions. Raises `BuildStepFailed`, also for a child that died."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = _DEAD_STATUS
        try:
            with os.fdopen(writing, "w", encoding="utf-8", errors="surrogateescape") as out:
                status = _child(conditions, request, record, store.home, host, out)
        finally:
            os._exit(status)
    os.close(writing)
    last: dict[str, Any] = {}
    try:
        with os.fdopen(reading, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                last = json.loads(line)
                if last["say"] in ("step", "log", "note", "warn"):
                    getattr(progress, last["say"])(last["text"])
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if last.get("say") == "done":
        return SecondBuild(digest=last["digest"], stages=tuple(tuple(stage) for stage in last["stages"]))
    why = last["text"] if last.get("say") == "failed" else f"its process ended with {os.waitstatus_to_exitcode(status)}"
    raise BuildStepFailed(
        f"the first build succeeded, and the second, under other conditions, failed: {why}",
        span=None,
        status=1,
        log_tail=last.get("tail", ""),
        remedy="CPUs, file system and time were others; the directory of the context, too",
    )


class _Telling(Silent):
    """Progress as lines of JSON."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def tell(self, say: str, **values: Any) -> None:
        self._out.write(json.dumps({"say": say, **values}) + "\n")
        self._out.flush()

    def step(self, title: str) -> None:
        self.tell("step", text=title)

    def log(self, text: str) -> None:
        self.tell("log", text=text)

    def note(self, text: str) -> None:
        self.tell("note", text=text)

    def warn(self, text: str) -> None:
        self.tell("warn", text=text)


def _child(
    conditions: Conditions, request: BuildRequest, record: BuildRecord, home: HostPath, host: BuildHost, out: IO[str]
) -> int:
    """In the second process, which has one thread and ends after this."""
    telling = _Telling(out)
    try:
        request = replace(request, tags=())
        _change_conditions(conditions)
        if conditions.context is not None:
            request = replace(request, context=conditions.context)
        with Store.open(home) as source, Store.open(conditions.home) as store:
            for base in record.bases:
                _copy_base(base.name, base.digest, base.source, source, store)
            result = build(request, store=store, progress=telling, host=host)
        stages = [[step.layer for step in stage.steps] for stage in result.record.stages]
        telling.tell("done", digest=result.digest, stages=stages)
    except ContainError as error:
        telling.tell("failed", text=error.message, tail=getattr(error, "log_tail", ""))
        return 1
    except OSError as error:
        telling.tell("failed", text=str(error))
        return 1
    return 0


def _change_conditions(conditions: Conditions) -> None:
    from contain.linux import syscalls

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    os.umask(_UMASK)
    os.environ.update(TMPDIR=str(conditions.temporary), TZ="Pacific/Kiritimati", LC_ALL="fr_FR.UTF-8")
    time.tzset()
    tempfile.tempdir = None
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, conditions.cpus)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            syscalls.unshare(syscalls.CLONE_NEWUTS)
            syscalls.sethostname(_HOSTNAME)


def _copy_base(name: str, digest: str, where: str, source: Store, store: Store) -> None:
    """The first build's base, so that both stand on the same one, whatever its name means a moment later."""
    from contain.reference import parse_reference

    image = source.image(digest)
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        del layer
        if store.has_layer(diff_id):
            continue
        with tempfile.TemporaryFile() as archive:
            source.write_layer_tar(diff_id, archive)
            archive.seek(0)
            store.extract_layer(archive, diff_id=diff_id, media_type=MEDIA_LAYER, progress=Silent(), label=name)
    copied = store.put_manifest(source.read_blob(digest), source.read_blob(image.manifest.config.digest), source=where)
    reference = parse_reference(name)
    if not reference.digest:
        store.tag(reference, copied.digest, source=where)
