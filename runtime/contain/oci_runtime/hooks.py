"""Start a bundle's hooks: each with the container's state on its standard input, in order, within its time.

Source: config.md "POSIX-platform Hooks", runtime.md "Lifecycle". Runs in the runtime, or in the container's own first process, where
nothing may be imported any more: this module imports all it needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time

from contain.errors import ContainError
from contain.runtime_spec.configuration import Hook

_ERROR_LIMIT_BYTES = 4096
_POLL_SECONDS = 0.005
_PIPE_BYTES, _F_SETPIPE_SZ = 65536, 1031  # pipe(7), fcntl(2)


class HookFailed(ContainError):
    """A hook ended with an error or took too long."""

    code = "bundle-hook"


def run_hooks(name: str, hooks: tuple[Hook, ...], state: bytes, *, tolerant: bool = False) -> None:
    """Start one after the other. ``tolerant``: an error is only said (runtime.md, poststart and poststop); else `HookFailed`."""
    for number, hook in enumerate(hooks):
        failure = _run(hook, state)
        if failure is None:
            continue
        message = f"{name} hook #{number} {hook.path}: {failure}"
        if not tolerant:
            raise HookFailed(f"error running {message}")
        sys.stderr.write(f"warning: {message}\n")


def _run(hook: Hook, state: bytes) -> str | None:
    """None, or why it failed."""
    ready, told = os.pipe2(os.O_CLOEXEC)
    seen, said = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _become(hook, ready, said)
    os.close(ready)
    os.close(said)
    if len(state) > _PIPE_BYTES:  # so that a hook that does not read holds nobody
        fcntl.fcntl(told, _F_SETPIPE_SZ, len(state))
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        os.write(
            told, state
        )  # less than a pipe holds, or a hook that does not read would hold us: see `render_state`'s callers
    signal.signal(signal.SIGPIPE, before)
    os.close(told)
    os.set_blocking(seen, False)
    said_bytes = b""
    deadline = None if hook.timeout_seconds is None else time.monotonic() + hook.timeout_seconds
    descriptor = os.pidfd_open(child)
    status = None
    try:
        while status is None:
            said_bytes = (said_bytes + _read_some(seen))[-_ERROR_LIMIT_BYTES:]
            found, ended = os.waitpid(child, os.WNOHANG)
            if found:
                status = ended
            elif deadline is not None and time.monotonic() > deadline:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                os.waitpid(child, 0)
                return f"took longer than {hook.timeout_seconds} seconds"
            else:
                time.sleep(_POLL_SECONDS)
        said_bytes = (said_bytes + _read_some(seen))[-_ERROR_LIMIT_BYTES:]
    finally:
        os.close(descriptor)
        os.close(seen)
    if status == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    ended_how = f"exit status {code}" if code >= 0 else f"signal {-code}"
    return f"{ended_how}, stdout: , stderr: {said_bytes.decode(errors='replace').strip()}"


def _read_some(descriptor: int) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(descriptor, 65536):
            found = (found + data)[-_ERROR_LIMIT_BYTES:]
    return found


def _become(hook: Hook, stdin: int, output: int) -> None:
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        arguments = hook.arguments or (hook.path,)
        if hook.environment is None:
            os.execv(hook.path, arguments)
        os.execve(hook.path, arguments, dict(pair.partition("=")[::2] for pair in hook.environment or ()))
    except OSError as error:
        os.write(2, f"{hook.path}: {error.strerror}".encode())
    finally:
        os._exit(127)
