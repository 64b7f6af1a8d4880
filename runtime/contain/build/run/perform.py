"""RUN: from a `RunStep` to a container's spec, and the doer that runs it with its output streamed.

What a step may use of the machine while it runs, and what never reaches the image or the cache key: the proxy variables, the
host's certificate authorities, the resolver. All of it appears below ``/dev``, which is a memory file system of the container, so
that not even a mount point is left behind.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType

from contain.build.lock.constraints import NO_CONSTRAINTS, Constraints
from contain.build.request import BuildHost
from contain.build.run.masking import Mask
from contain.build.run.options import RunOptions
from contain.build.steps import RunStep
from contain.build.tasks import Readable, Work
from contain.errors import BuildStepFailed
from contain.paths import HostPath, run_home
from contain.spec import Bind, ContainerSpec, Identity, Limits, Mount, Network
from contain.values import dataclass, replace

HOSTNAME = "buildcontainer"
CA_TARGET = PurePosixPath("/dev/contain/ca-certificates.crt")
APT_TARGET = PurePosixPath("/dev/contain/apt.conf")
PREFERENCES_TARGET = PurePosixPath("/dev/contain/apt-preferences")
PIP_TARGET = PurePosixPath("/dev/contain/pip-constraints.txt")
_APT_TEXT = f'Acquire::https::CAInfo "{CA_TARGET}";\n'
_APT_PREFERENCES = f'Dir::Etc::Preferences "{PREFERENCES_TARGET}";\n'
_PIP_VARIABLES = ("PIP_CONSTRAINT", "UV_CONSTRAINT")
_CA_VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
)
_CA_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_NETWORKS = {"default": Network.BRIDGE, "none": Network.NONE, "host": Network.HOST}
_STOP_SIGNAL = 15
_TAIL_LINES = 30
_SHOWN_LENGTH = 160
_READ_BYTES = 1 << 16


def find_ca_bundle(environ: Mapping[str, str]) -> HostPath | None:
    """The host's bundle of certificate authorities: ``$SSL_CERT_FILE``, else where the distributions keep it."""
    for place in (environ.get("SSL_CERT_FILE", ""), *_CA_PLACES):
        if place and os.path.isfile(place):
            return HostPath(place).resolve()
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Host files of one RUN: the heredoc script, apt's setting, what a lock says to apt and pip, where they are needed."""

    script: HostPath | None = None
    apt: HostPath | None = None
    preferences: HostPath | None = None
    pip: HostPath | None = None


def write_run_files(
    step: RunStep, host: BuildHost, directory: HostPath, *, constraints: Constraints = NO_CONSTRAINTS, preferences: str = ""
) -> RunFiles:
    """Put the files that `plan_run` mounts into a scratch directory. ``preferences``: the image's own of apt, which ours replace."""
    script = apt = pins = pip = None
    if step.script is not None:
        script = directory / "script"
        script.write_text(step.script.body, encoding="utf-8")
        script.chmod(0o755)
    if constraints.apt:
        pins = directory / "apt-preferences"
        pins.write_text(f"{constraints.apt}\n{preferences}", encoding="utf-8", errors="surrogateescape")
        pins.chmod(0o644)
    if constraints.pip:
        pip = directory / "pip-constraints.txt"
        pip.write_text(constraints.pip)
        pip.chmod(0o644)
    if host.ca_bundle is not None or pins is not None:
        apt = directory / "apt.conf"
        apt.write_text((_APT_TEXT if host.ca_bundle is not None else "") + (_APT_PREFERENCES if pins is not None else ""))
        apt.chmod(0o644)
    return RunFiles(script=script, apt=apt, preferences=pins, pip=pip)


def run_environment(
    step: RunStep,
    host: BuildHost,
    *,
    proxies_given: Mapping[str, str],
    home: str,
    opened: Mapping[str, str] = MappingProxyType({}),
    constraints: Constraints = NO_CONSTRAINTS,
) -> tuple[tuple[str, str], ...]:
    """The variables a RUN sees. What the Dockerfile sets wins over everything that the machine brings.

    ``proxies_given``: proxy build arguments that no ARG declares, seen in small and in capital letters; they win over the host's.
    ``opened``: secrets and the agent's socket.
    """
    spelled = {other: value for name, value in proxies_given.items() for other in (name.lower(), name.upper())}
    values: dict[str, str] = {
        **host.proxies,
        **spelled,
        **proxies_given,
        "HOME": home,
        "SOURCE_DATE_EPOCH": str(host.epoch_seconds),
    }
    if host.ca_bundle is not None:
        values.update(dict.fromkeys(_CA_VARIABLES, str(CA_TARGET)))
        values["APT_CONFIG"] = str(APT_TARGET)
    if constraints.apt:
        values["APT_CONFIG"] = str(APT_TARGET)
    if constraints.pip:
        values.update(dict.fromkeys(_PIP_VARIABLES, str(PIP_TARGET)))
    values.update(step.environment)
    values.update(opened)
    return tuple(sorted(values.items()))


def plan_run(
    step: RunStep,
    host: BuildHost,
    *,
    container_id: str,
    layers: tuple[HostPath, ...],
    upper: HostPath,
    environment: tuple[tuple[str, str], ...],
    identity: Identity,
    files: RunFiles,
    capabilities: frozenset[str],
    hostname: str = HOSTNAME,
    opened: Sequence[Mount] = (),
    options: RunOptions = RunOptions(),  # noqa: B008 - a frozen value
) -> ContainerSpec:
    """The container of one RUN. ``opened``: its own mounts."""
    mounts: list[Mount] = []
    if host.ca_bundle is not None:
        mounts.append(Bind(source=host.ca_bundle, target=CA_TARGET, read_only=True))
    if files.apt is not None:
        mounts.append(Bind(source=files.apt, target=APT_TARGET, read_only=True))
    if files.preferences is not None:
        mounts.append(Bind(source=files.preferences, target=PREFERENCES_TARGET, read_only=True))
    if files.pip is not None:
        mounts.append(Bind(source=files.pip, target=PIP_TARGET, read_only=True))
    if files.script is not None and step.script is not None:
        mounts.append(Bind(source=files.script, target=PurePosixPath(step.script.path), read_only=True))
    mounts += opened
    return ContainerSpec(
        container_id=container_id,
        name=f"build-{container_id[:12]}",
        image_digest="",
        image_name="",
        layers=layers,
        upper=upper,
        arguments=step.arguments,
        environment=environment,
        working_directory=PurePosixPath(step.working_directory),
        identity=identity,
        hostname=hostname,
        mounts=tuple(mounts),
        network=_NETWORKS[step.network],
        limits=Limits(),
        read_only=False,
        terminal=False,
        stop_signal=_STOP_SIGNAL,
        capabilities=capabilities,
        confined=step.security != "insecure",
        extra_hosts=options.extra_hosts,
        shared_memory_bytes=options.shared_memory_bytes,
        resource_limits=options.resource_limits,
    )


class OutputLog:
    """Passes a running step's output on as it comes, without the secrets in it, and keeps its last lines."""

    def __init__(self, forward: Callable[[str], None], *, secrets: Iterable[bytes] = ()) -> None:
        self._forward = forward
        self._mask = Mask(secrets)
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._partial = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Bytes as they were read; an unfinished character waits for the rest."""
        text = self._mask.feed(self._decoder.decode(data, final), final=final)
        if not text:
            return
        self._forward(text)
        *complete, self._partial = (self._partial + text).split("\n")
        self._lines.extend(complete)
        self._partial = self._partial[-4096:]

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join([*self._lines, *([self._partial] if self._partial else [])])


def perform_run(spec: ContainerSpec, step: RunStep, log: OutputLog, *, skeletons: HostPath) -> Work[None]:
    """Run the container; both output streams go to ``log`` in the order in which they came. Waits where there is no output yet.

    ``skeletons``: a directory of the build, for the mount points of its containers, which are nearly always the same.

    Raises `BuildStepFailed` with the command's place and the end of its output.
    """
    from contain.container.files.host_view import verify_root_can_be_written
    from contain.container.launch import CommandNotStarted
    from contain.container.run import finish, open_workspace, start

    verify_root_can_be_written(spec)
    home = run_home()
    with contextlib.ExitStack() as cleanup:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        cleanup.callback(os.close, reading)
        writing_end = cleanup.enter_context(os.fdopen(writing, "wb"))
        nothing = cleanup.enter_context(open(os.devnull, "rb"))
        workspace = cleanup.enter_context(open_workspace(spec, home))
        workspace = replace(workspace, volatile=True, skeleton=skeletons / skeleton_name(spec))
        try:
            running = cleanup.enter_context(start(spec, workspace, stdio=(nothing.fileno(), writing, writing), home=home))
        except CommandNotStarted as error:
            raise step_failed(step, status=error.exit_status, why=error.message, tail="") from error
        writing_end.close()  # the container holds the only other end, so that its end is the end of the output
        yield Readable(reading)
        while data := os.read(reading, _READ_BYTES):
            log.feed(data)
            yield Readable(reading)
        log.feed(b"", final=True)
        state = finish(running)
    if state.status != 0:
        raise step_failed(step, status=state.status, why=_why(state.status, out_of_memory=state.out_of_memory), tail=log.tail)


def skeleton_name(spec: ContainerSpec) -> str:
    """The same for containers with the same mount points."""
    from contain.container.plan import stub_paths

    return hashlib.sha256(repr(stub_paths(spec)).encode()).hexdigest()[:32]


def _why(status: int, *, out_of_memory: bool) -> str:
    if out_of_memory:
        return "it was killed because memory ran out"
    if status > 128:
        return f"exit code {status} (signal {status - 128})"
    return f"exit code {status}"


def step_failed(step: RunStep, *, status: int, why: str, tail: str) -> BuildStepFailed:
    """The error of a command that failed."""
    remedy = "status 127 means that a command was not found in the image" if status == 127 else ""
    text = " ".join(step.instruction.text.split())  # as it is written: values of build arguments are nobody's error message
    shown = text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
    return BuildStepFailed(
        f"{shown} failed: {why}",
        span=step.instruction.span,
        status=status,
        log_tail=tail,
        remedy=remedy,
    )


def loopback_proxies(values: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The proxy variables that name this machine's loopback, which a container with its own network does not reach."""
    found = []
    for name, value in values:
        host = value.split("://", 1)[-1].rsplit("@", 1)[-1]
        if name.lower().endswith("_proxy") and name.lower() != "no_proxy" and host.startswith(("127.", "localhost", "[::1]")):
            found.append(name)
    return tuple(found)
