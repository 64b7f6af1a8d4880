"""Flags of ``run`` and ``create`` that say what the program gets from its surroundings, and what holds it. What each means is decided
in `contain.container.request.asked`; here files that are named are read.

Source: docker/cli ``docs/reference/commandline/container_run.md``, ``opts/file.go``; podman ``podman-run.1.md`` for what is only there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.cli.arguments import parse_labels, parse_pairs
from contain.errors import UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.spec import SHARED_MEMORY_BYTES, ResourceLimit

if TYPE_CHECKING:
    from contain.container.request.asked import Surroundings
    from contain.spec import Device

_MOST_PROFILE_BYTES = 1 << 20
_REFUSED = {
    "--volume-driver": (
        "VALUE",
        "volumes are directories of the store",
        "leave it out, or mount with -v what you have mounted",
    ),
    "--runtime": ("VALUE", "there is one runtime, this one", "leave it out"),
    "--gpus": ("VALUE", "no driver's files are put into containers", "--device /dev/... and -v for its libraries"),
    "--storage-opt": ("VALUE", "what a container writes is not limited on disk", "--read-only with --tmpfs DST:size=..."),
    "--cgroup-parent": ("VALUE", "groups of containers are below `contain`", "set limits with --memory, --cpus and the like"),
    "--pid": ("VALUE", "PID 1 of a container ends all of it, so it has PIDs of its own", "`contain top` shows its processes"),
    "--pod": ("VALUE", "there are no pods", "--network container:NAME shares a network"),
    "--tz": ("VALUE", "no file of this machine is put into containers", "-e TZ=..., where the image has time zones"),
    "--timeout": ("VALUE", "a container ends by itself, or by `contain stop`", "timeout(1) before `contain run`"),
    "--preserve-fds": ("VALUE", "a container gets the standard descriptors only", "-v, or standard input"),
    "--secret": ("VALUE", "there is no store of secrets", "-v FILE:/run/secrets/NAME:ro"),
    "--cpu-rt-period": ("VALUE", "real-time groups are not made", "leave it out"),
    "--cpu-rt-runtime": ("VALUE", "real-time groups are not made", "leave it out"),
    "--kernel-memory": ("VALUE", "kernels have no such limit any more", "--memory counts it"),
    "--cpu-count": ("VALUE", "it is for Windows", "--cpus"),
    "--cpu-percent": ("VALUE", "it is for Windows", "--cpus"),
    "--io-maxbandwidth": ("VALUE", "it is for Windows", "--device-read-bps, --device-write-bps"),
    "--io-maxiops": ("VALUE", "it is for Windows", "--device-read-iops, --device-write-iops"),
    "--rootfs": ("", "a container is made of an image", "contain import DIRECTORY.tar NAME"),
    "--env-host": ("", "nothing of the caller's environment goes inside unasked", "-e NAME for each that is wanted"),
}
"""Flags of Docker's and podman's that are refused: what their value is called (empty: they have none), why, and what to do instead."""


class _Refuse(argparse.Action):
    """Refuses its flag, by name, whatever its value is."""

    def __call__(self, *given: object, **named: object) -> None:
        from contain.container.request.asked import refused

        flag = str(given[3] if len(given) > 3 else named["option_string"])  # parser, namespace, values, flag
        _, why, remedy = _REFUSED[flag]
        raise refused(flag, why, remedy)


def add_restriction_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's names and defaults."""

    def several(flag: str, metavar: str, help_text: str) -> None:
        parser.add_argument(flag, metavar=metavar, help=help_text, action="append", default=[])

    several("--env-file", "FILE", "variables, NAME=VALUE a line each")
    several("--unsetenv", "NAME", "a variable of the image that it does not get")
    parser.add_argument("--unsetenv-all", action="store_true", help="no variable of the image")
    several("--label-file", "FILE", "labels, NAME=VALUE a line each")
    several("--annotation", "NAME=VALUE", "kept with the container's record")
    several("--cap-add", "NAME", "a capability more, or ALL")
    several("--cap-drop", "NAME", "a capability less, or ALL")
    parser.add_argument("--privileged", action="store_true", help="all capabilities and devices, no filter, nothing hidden")
    several("--security-opt", "OPTION", "seccomp=, apparmor=, no-new-privileges=, systempaths=, mask=, unmask=")
    several("--group-add", "GROUP", "one group more, by name or number")
    several("--device", "HOST[:INSIDE][:rwm]", "a device of this machine")
    several("--device-cgroup-rule", "RULE", "for example 'c 42:* rmw'")
    several("--sysctl", "NAME=VALUE", "a kernel parameter of its namespaces")
    parser.add_argument("--ipc", default="", metavar="MODE", help="private (default), shareable, none, host or container:NAME")
    parser.add_argument("--uts", default="", metavar="MODE", help="host: this machine's name is its name")
    parser.add_argument("--cgroupns", default="", metavar="MODE", help="private (default) or host")
    parser.add_argument("--domainname", default="", metavar="NAME", help="its NIS domain name")
    parser.add_argument("--oom-score-adj", metavar="N", help="-1000 to 1000; who has more is killed first")
    parser.add_argument("--umask", metavar="OCTAL", help="of its program (default 0022)")
    parser.add_argument("--shm-size", metavar="SIZE", help="size of /dev/shm (default 64m)")
    several("--ulimit", "NAME=SOFT[:HARD]", "for example nofile=1024")
    parser.add_argument("--stop-signal", metavar="SIGNAL", help="that `contain stop` sends, instead of the image's")
    parser.add_argument("--isolation", default="", metavar="default", help=argparse.SUPPRESS)
    for flag, (metavar, _, _) in _REFUSED.items():
        if metavar:
            parser.add_argument(flag, action=_Refuse, metavar=metavar, help=argparse.SUPPRESS)
        else:
            parser.add_argument(flag, action=_Refuse, nargs=0, help=argparse.SUPPRESS)


def _profiles(options: list[str]) -> dict[str, str]:
    """The texts of the seccomp profiles that are named."""
    found = {}
    for option in options:
        name, separator, path = option.partition("=")
        if not separator:
            name, separator, path = option.partition(":")
        if name == "seccomp" and path and path not in ("builtin", "unconfined"):
            try:
                with open(path, "rb") as file:
                    data = file.read(_MOST_PROFILE_BYTES + 1)
                if len(data) > _MOST_PROFILE_BYTES:
                    raise UsageError(f"opening seccomp profile ({path}) failed: it has more than 1 MiB", code="seccomp-profile")
                found[path] = data.decode()
            except UnicodeDecodeError:
                raise UsageError(f"opening seccomp profile ({path}) failed: it is not UTF-8", code="seccomp-profile") from None
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise UsageError(
                    f"opening seccomp profile ({path}) failed: open {path}: {reason}", code="seccomp-profile"
                ) from None
    return found


def _verify_profiles(texts: dict[str, str], capabilities: frozenset[str]) -> None:
    """A profile that cannot be carried out is told before anything is made."""
    if not texts:
        return
    from contain.linux.seccomp_profile import parse_kernel, parse_profile

    system = os.uname()
    for text in texts.values():
        parse_profile(text, machine=system.machine, capabilities=capabilities, kernel=parse_kernel(system.release))


def _devices(values: list[str]) -> tuple[Device, ...]:
    """The devices; a directory stands for those in it."""
    if not values:
        return ()
    from contain.container.confine import expand_device
    from contain.container.request.asked import parse_device

    return tuple(each for value in values for each in expand_device(parse_device(value)))


def parse_surroundings(options: argparse.Namespace) -> Surroundings:
    """What was asked of the program's surroundings. Raises `UsageError`, `NotSupported`."""
    from contain.container.request import asked
    from contain.spec import Sharing

    texts = _profiles(options.security_opt)
    _verify_profiles(texts, parse_capabilities(options))
    if options.isolation not in ("", "default"):
        raise asked.refused(f"--isolation {options.isolation}", "it is for Windows", "leave it out")
    ipc = asked.parse_sharing(options.ipc, "--ipc", (*Sharing,))
    uts = asked.parse_sharing(options.uts, "--uts", (Sharing.PRIVATE, Sharing.HOST))
    if uts is Sharing.HOST and (options.hostname or options.domainname):
        raise UsageError("conflicting options: hostname and the UTS mode", code="bad-namespace", remedy="leave out --hostname")
    for rule in options.device_cgroup_rule:
        from contain.linux.devices import parse_device_rule

        parse_device_rule(rule)
    score = None
    if options.oom_score_adj is not None:
        score = asked.verify_out_of_memory_score(asked.parse_integer(options.oom_score_adj, "--oom-score-adj"))
    confinement = asked.parse_security_options(options.security_opt, profiles=texts, privileged=options.privileged)
    if confinement.apparmor:
        from contain.container.confine import verify_apparmor

        verify_apparmor(confinement.apparmor)
    return asked.Surroundings(
        confinement=confinement,
        sysctls=tuple(
            asked.parse_sysctl(text, host_network=options.network == "host", host_ipc=ipc in (Sharing.HOST, Sharing.CONTAINER))
            for text in options.sysctl
        ),
        devices=_devices(options.device),
        device_rules=tuple(options.device_cgroup_rule),
        ipc=ipc,
        ipc_container=options.ipc.removeprefix("container:") if ipc is Sharing.CONTAINER else "",
        uts=uts,
        cgroup_namespace=asked.parse_sharing(options.cgroupns, "--cgroupns", (Sharing.PRIVATE, Sharing.HOST)),
        domain_name=options.domainname,
        umask=0o022 if options.umask is None else asked.parse_umask(options.umask),
        out_of_memory_score=score,
        annotations=parse_pairs(options.annotation, flag="--annotation"),
        added_groups=tuple(options.group_add),
        unset=tuple(options.unsetenv),
        unset_all=options.unsetenv_all,
    )


def read_labels(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """``--label-file``, then ``--label``; a name alone is a label without a value, as with Docker."""
    files = [(name, value) for path in options.label_file for name, value in _read_pairs(path, "label", alone=lambda _: "")]
    return (*files, *parse_labels(options.label, flag="-l, --label"))


def read_env_files(paths: list[str]) -> tuple[tuple[str, str], ...]:
    """Lines ``NAME=VALUE``, taken as they are; ``NAME`` alone takes the caller's value; ``#`` begins a comment line."""
    return tuple(pair for path in paths for pair in _read_pairs(path, "env", alone=os.environ.get))


def _read_pairs(path: str, kind: str, *, alone: Callable[[str], str | None]) -> list[tuple[str, str]]:
    """The lines of a file; ``alone``: the value of a name without one, or None for no pair."""
    pairs: list[tuple[str, str]] = []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"the {kind} file {path} is not UTF-8 text", code="bad-env-file") from None
    except OSError as error:
        raise UsageError(f"open {path}: {error.strerror}", code="bad-env-file") from None
    for line in map(str.lstrip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name = name.rstrip() if not equals else name
        if not name or any(character.isspace() for character in name):
            raise UsageError(
                f"invalid {kind} file ({path}): "
                + (f"variable '{name}' contains whitespaces" if name else f"no variable name on line '{line}'"),
                code="bad-env-file",
            )
        found = value if equals else alone(name)
        if found is not None:
            pairs.append((name, found))
    return pairs


def parse_resources(options: argparse.Namespace) -> tuple[tuple[ResourceLimit, ...], int]:
    """``--ulimit``, and ``--shm-size`` in bytes."""
    if not options.ulimit and options.shm_size is None:
        return (), SHARED_MEMORY_BYTES
    from contain.build.run.options import parse_resource_limit, parse_shared_memory

    size = SHARED_MEMORY_BYTES if options.shm_size is None else parse_shared_memory(options.shm_size)
    return tuple(map(parse_resource_limit, options.ulimit)), size


def parse_capabilities(options: argparse.Namespace) -> frozenset[str]:
    """``--cap-add``, ``--cap-drop``, ``--privileged``."""
    if not options.cap_add and not options.cap_drop and not options.privileged:
        return DEFAULT_CAPABILITIES
    from contain.container.request.asked import parse_capabilities as decide

    kept = decide(options.cap_add, options.cap_drop, privileged=options.privileged)
    everything = options.privileged or any(name.upper().removeprefix("CAP_") == "ALL" for name in options.cap_add)
    if everything and options.userns == "host":  # then all means all that this process can give, as Docker's daemon
        from contain.container.confine import own_capabilities

        return kept & own_capabilities()
    return kept
