"""The OCI runtime as a program: ``contain oci ...`` and ``contain-oci ...``, which is for engines' ``--runtime``.

Finds the command, calls it, and tells errors the way engines read them: in words on standard error and, with ``--log``, in that file.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from contain.annotations import TYPE_CHECKING, NoReturn
from contain.errors import ContainError, UsageError
from contain.oci_runtime.arguments import COMMANDS, Options, parse_arguments
from contain.runtime_spec.document import render_json

if TYPE_CHECKING:
    from contain.oci_runtime.launch import Launching
    from contain.oci_runtime.records import Place

_SUMMARIES = {
    "create": "make a container of a bundle; its program waits",
    "run": "make one, start it, and stay until it ends",
    "start": "start the program of a container that was created",
    "state": "a container's state, as JSON",
    "kill": "send a signal (default TERM) to its first process",
    "delete": "take a stopped container away",
    "exec": "a further process in a running container",
    "ps": "the ids of its processes",
    "list": "all containers below --root",
    "pause": "hold all its processes",
    "resume": "let them go on",
    "update": "change its limits",
    "events": "what its control groups count (--stats)",
    "spec": "write a config.json to begin with",
    "features": "what this runtime can do, as JSON",
}


def default_root() -> str:
    """Where containers are kept: below /run, which a reboot empties like the machine of its processes."""
    if os.geteuid() == 0:
        return "/run/contain-oci"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/tmp/contain-oci-{os.geteuid()}'}/contain-oci"


def _usage() -> str:
    rows = [f"  {name:<9} {_SUMMARIES[name]}" for name in COMMANDS]
    return "\n".join(
        [
            "Usage: contain oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND [OPTIONS] ID",
            "",
            "An OCI runtime (runtime-spec 1.2) for Docker, podman and containerd.",
            "",
            *rows,
            "",
        ]
    )


def _operands(command: str, operands: list[str], least: int, most: int) -> list[str]:
    if not least <= len(operands) <= most:
        wanted = "one argument" if most == 1 else f"{least} to {most} arguments" if most > least else f"{least} arguments"
        raise UsageError(
            f"contain oci {command}: takes {wanted if most else 'no arguments'}, not {len(operands)}", code="bad-arguments"
        )
    return operands


class _Runtime:
    """One call: its options, and a method per command."""

    def __init__(self, common: Options, own: Options, operands: list[str]) -> None:
        self.common, self.own, self.operands = common, own, operands
        self.root = os.path.abspath(common.text("root") or default_root())

    def _place(self, least: int = 1, most: int = 1, command: str = "") -> Place:
        from contain.oci_runtime.records import Place, check_root

        name = _operands(command, self.operands, least, most)[0]
        check_root(self.root)
        return Place(self.root, name)

    def create(self) -> int:
        self._create().close()
        return 0

    def _create(self, *, keep_terminal: bool = False) -> Launching:
        from contain.oci_runtime.create import CreateRequest, create

        self._place(command="create")
        _, launching = create(
            CreateRequest(
                root=self.root,
                container_id=self.operands[0],
                bundle=self.own.text("bundle", "."),
                pid_file=self.own.text("pid-file"),
                console_socket=self.own.text("console-socket"),
                no_pivot=self.own.flag("no-pivot"),
                no_new_keyring=self.own.flag("no-new-keyring"),
                preserve_fds=self.own.number("preserve-fds"),
                keep_terminal=keep_terminal,
            )
        )
        return launching

    def run(self) -> int:
        from contain.oci_runtime.control import delete
        from contain.oci_runtime.create import start
        from contain.oci_runtime.foreground import become_parent, stay

        place = self._place(command="run")
        detach = self.own.flag("detach")
        if not detach:
            become_parent()
        launching = self._create(keep_terminal=not detach)
        terminal = launching.terminal if not self.own.text("console-socket") else -1
        try:
            try:
                start(place)
            except ContainError:
                delete(place, force=True)
                raise
            if detach:
                return 0
            status = stay(launching.process_id, terminal)
            if not self.own.flag("keep"):
                delete(place, force=True)
            return status
        finally:
            launching.close()

    def start(self) -> int:
        from contain.oci_runtime.create import start

        start(self._place(command="start"))
        return 0

    def state(self) -> int:
        from contain.oci_runtime.state import render_listed

        place = self._place(command="state")
        record = place.read_record()
        print(render_json(render_listed(record, place.read_status(record))))
        return 0

    def kill(self) -> int:
        from contain.oci_runtime.control import kill, parse_signal

        place = self._place(1, 2, "kill")
        kill(place, parse_signal(self.operands[1] if len(self.operands) > 1 else ""), every=self.own.flag("all"))
        return 0

    def delete(self) -> int:
        from contain.oci_runtime.control import delete

        delete(self._place(command="delete"), force=self.own.flag("force"))
        return 0

    def exec(self) -> int:
        from contain.oci_runtime.execute import ExecRequest, execute, let_go
        from contain.oci_runtime.foreground import become_parent, stay

        place = self._place(1, 1 << 20, "exec")
        own = self.own
        detach = own.flag("detach")
        try:
            groups = tuple(int(number) for text in own.many("additional-gids") for number in text.split(","))
        except ValueError:
            raise UsageError("--additional-gids takes numbers", code="bad-arguments") from None
        request = ExecRequest(
            process_file=own.text("process"),
            arguments=tuple(self.operands[1:]),
            environment=own.many("env"),
            directory=own.text("cwd"),
            user=own.text("user"),
            groups=groups,
            capabilities=own.many("cap"),
            terminal=own.flag("tty"),
            no_new_privileges=own.flag("no-new-privs"),
            pid_file=own.text("pid-file"),
            console_socket=own.text("console-socket"),
            detach=detach,
            preserve_fds=own.number("preserve-fds"),
        )
        if not detach:
            become_parent()
        _, launching = execute(place, request)
        try:
            let_go(launching)
            if detach:
                return 0
            return stay(launching.process_id, -1 if request.console_socket else launching.terminal)
        finally:
            launching.close()

    def ps(self) -> int:
        from contain.oci_runtime.control import processes_of

        found = processes_of(self._place(command="ps"))
        if self.own.text("format", "table") == "json":
            print(render_json(found))
            return 0
        print("PID      CMD")
        for process in found:
            try:
                with open(f"/proc/{process}/cmdline", "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            print(f"{process:<8} {words}")
        return 0

    def list(self) -> int:
        from contain.errors import NotFound
        from contain.oci_runtime.records import Place, list_names
        from contain.oci_runtime.state import render_listed

        _operands("list", self.operands, 0, 0)
        found = []
        for name in list_names(self.root):
            try:
                place = Place(self.root, name)
                record = place.read_record()
            except (NotFound, UsageError):
                continue
            found.append(render_listed(record, place.read_status(record)))
        if self.own.flag("quiet"):
            for each in found:
                print(each["id"])
        elif self.own.text("format", "table") == "json":
            print(render_json(found or None))
        else:
            print(f"{'ID':<20} {'PID':<8} {'STATUS':<9} {'CREATED':<21} BUNDLE")
            for each in found:
                print(f"{each['id']:<20} {each['pid']:<8} {each['status']:<9} {each['created']:<21} {each['bundle']}")
        return 0

    def pause(self) -> int:
        from contain.oci_runtime.control import pause

        pause(self._place(command="pause"), held=True)
        return 0

    def resume(self) -> int:
        from contain.oci_runtime.control import pause

        pause(self._place(command="resume"), held=False)
        return 0

    def update(self) -> int:
        from contain.oci_runtime.control import UPDATE_FLAGS, parse_update, update

        place = self._place(command="update")
        name = self.own.text("resources")
        text: bytes | None = None
        if name == "-":
            text = sys.stdin.buffer.read()
        elif name:
            with open(name, "rb") as file:
                text = file.read()
        update(place, parse_update(text, {flag: self.own.text(flag) for flag in UPDATE_FLAGS if self.own.many(flag)}))
        return 0

    def events(self) -> int:
        from contain.errors import NotSupported
        from contain.oci_runtime.control import read_statistics

        if not self.own.flag("stats"):
            raise NotSupported("contain oci events is supported with --stats alone", code="bundle-not-supported")
        print(read_statistics(self._place(command="events")).decode())
        return 0

    def spec(self) -> int:
        from contain.oci_runtime.example import render_example

        _operands("spec", self.operands, 0, 0)
        path = f"{self.own.text('bundle', '.')}/config.json"
        try:
            with open(path, "x") as file:
                file.write(render_example(rootless=self.own.flag("rootless"), user_id=os.geteuid(), group_id=os.getegid()))
        except FileExistsError:
            raise UsageError(f"{path} exists; it is not overwritten", code="bundle-configuration") from None
        return 0

    def features(self) -> int:
        from contain.oci_runtime.example import render_features

        _operands("features", self.operands, 0, 0)
        print(render_features())
        return 0


def run_oci(words: list[str]) -> int:
    """Carry out one call; the exit status. Errors of ours are told here."""
    common = Options()
    try:
        common, command, own, operands = parse_arguments(words)
        if common.flag("version"):
            from contain import __version__
            from contain.runtime_spec.configuration import NEWEST_VERSION

            print(f"contain-oci version {__version__}\nspec: {NEWEST_VERSION}")
            return 0
        if not command or common.flag("help") or own.flag("help"):
            print(_usage(), end="")
            return 0 if common.flag("help") or own.flag("help") else 1
        if common.flag("systemd-cgroup") or common.text("cgroup-manager", "cgroupfs") != "cgroupfs":
            from contain.errors import NotSupported

            raise NotSupported(
                "--systemd-cgroup and --cgroup-manager other than cgroupfs are not supported",
                code="bundle-not-supported",
                remedy="let the engine manage groups itself: Docker's native.cgroupdriver=cgroupfs, podman's --cgroup-manager cgroupfs",
            )
        status: int = getattr(_Runtime(common, own, operands), command)()
        sys.stdout.flush()
    except ContainError as error:
        return _tell(common, str(error), f"{error.message}{f' ({error.remedy})' if error.remedy else ''}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        return _tell(common, message, message)
    except KeyboardInterrupt:
        return 130
    return status


def _tell(common: Options, message: str, line: str) -> int:
    """The message to standard error, and on one line to the engine's log file in its form. The exit status."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = common.text("log")
    if path:
        if common.text("log-format", "text") == "json":
            line = render_json({"level": "error", "msg": line, "time": stamp})
        else:
            line = f"time={render_json(stamp)} level=error msg={render_json(line)}"
        try:
            with open(path, "a") as file:
                file.write(f"{line}\n")
        except OSError as error:
            sys.stderr.write(f"--log {path}: {error.strerror}\n")
    sys.stderr.write(f"{message}\n")
    return 1


def program() -> NoReturn:
    """The console script ``contain-oci``."""
    gc.disable()  # a call lasts some milliseconds, or waits
    status = run_oci(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib is not imported yet
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)


if __name__ == "__main__":
    program()
