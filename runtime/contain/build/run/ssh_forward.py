"""Lets a build step use an ssh agent: a socket of ours in the container, and behind it the agent, asked for keys and signatures only.

A small process of its own answers the socket, so that a step may use it while the build waits for that step; it ends with the build,
however that ends. An agent refuses users other than its own, and nobody but the step needs the socket, which therefore has the owner
and the mode that the Dockerfile asks for. What would change the agent (adding, removing or locking keys) is answered with a
failure, as BuildKit does.

Protocol: draft-ietf-sshm-ssh-agent, section 3 (a 32-bit length, then a type byte).
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping

from contain.build.run.options import SshSource
from contain.errors import HostError, UsageError
from contain.paths import HostPath

REQUEST_IDENTITIES = 11
SIGN_REQUEST = 13
_FAILURE = b"\0\0\0\1\5"
_LARGEST_MESSAGE_BYTES = 256 << 10
_READ_BYTES = 1 << 16
_PATIENCE_SECONDS = 5.0


def split_messages(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete messages at the beginning of ``data``, each with its length, and the rest. Raises ValueError for one that is
    too long or empty."""
    messages = []
    while len(data) >= 4:
        (length,) = struct.unpack(">I", data[:4])
        if not 0 < length <= _LARGEST_MESSAGE_BYTES:
            raise ValueError("not a message of an ssh agent's client")
        if len(data) < 4 + length:
            break
        messages.append(data[: 4 + length])
        data = data[4 + length :]
    return messages, data


def may_pass(message: bytes) -> bool:
    """Whether a client's message goes on to the agent."""
    return message[4] in (REQUEST_IDENTITIES, SIGN_REQUEST)


@contextlib.contextmanager
def open_agent(source: SshSource, directory: HostPath, environ: Mapping[str, str]) -> Iterator[HostPath]:
    """The socket of the agent that ``source`` means. For private keys, an agent that holds them runs while the block does.

    ``directory`` is made for it if need be. Raises `UsageError` (``ssh-agent``), `HostError` (``ssh-agent-missing``).
    """
    paths = source.paths
    if not paths:
        place = environ.get("SSH_AUTH_SOCK", "")
        if not place:
            raise UsageError(
                f"--ssh {source.id} means the agent at $SSH_AUTH_SOCK, which is not set",
                code="ssh-agent",
                remedy=f"start one (eval $(ssh-agent); ssh-add), or name a key: --ssh {source.id}=$HOME/.ssh/id_ed25519",
            )
        paths = (place,)
    found = [_mode_of(source, path) for path in paths]
    if len(paths) == 1 and stat.S_ISSOCK(found[0]):
        yield HostPath(paths[0])
        return
    for path, mode in zip(paths, found, strict=True):
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path!r} is no private key", code="ssh-agent", remedy="name one socket, or one or more files with keys"
            )
    directory.mkdir(mode=0o700)
    with _own_agent(directory) as place_of_own:
        for path in paths:
            _add_key(path, place_of_own)
        yield place_of_own


def _mode_of(source: SshSource, path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"--ssh {source.id}: {path!r} cannot be used: {error.strerror}", code="ssh-agent") from error


@contextlib.contextmanager
def _own_agent(directory: HostPath) -> Iterator[HostPath]:
    program = shutil.which("ssh-agent")
    if program is None or shutil.which("ssh-add") is None:
        raise HostError(
            "private keys for --ssh need the programs ssh-agent and ssh-add",
            code="ssh-agent-missing",
            remedy="install OpenSSH's client (openssh-client), or forward an agent that runs: --ssh default",
        )
    place = directory / "agent"
    agent = subprocess.Popen(  # the short name: a socket's path has at most 107 bytes
        [program, "-D", "-a", place.name],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent,
    )
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not place.exists():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise HostError("ssh-agent does not start", call=program, code="ssh-agent-missing")
            time.sleep(0.005)
        yield place
    finally:
        agent.kill()
        agent.wait()


def _die_with_parent() -> None:
    from contain.linux import syscalls

    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def _add_key(path: str, place: HostPath) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": place.name, "SSH_ASKPASS_REQUIRE": "never"}
    done = subprocess.run(
        ["ssh-add", "-q", os.path.abspath(path)],
        cwd=place.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # no terminal to ask for a passphrase on
        check=False,
    )
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise UsageError(
            f"the key {path!r} cannot be used: {reason}",
            code="ssh-agent",
            remedy="a key with a passphrase needs an agent that holds it: ssh-add, then --ssh default",
        )


@contextlib.contextmanager
def forward_agent(agent: HostPath, place: HostPath, *, mode: int, user_id: int, group_id: int) -> Iterator[None]:
    """A socket at ``place`` behind which the agent is, as long as the block runs. The process must have one thread."""
    from contain.container.launch import die_with_parent, reset_signals

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _short(place) as name:
            listener.bind(name)
        os.chown(place, user_id, group_id)
        os.chmod(place, mode)
        listener.listen(16)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                die_with_parent(parent)
                reset_signals()
                os.dup2(listener.fileno(), 0)
                os.closerange(1, os.sysconf("SC_OPEN_MAX"))
                serve(socket.socket(fileno=0), agent)
            finally:
                os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def _short(path: HostPath) -> Iterator[str]:
    """Another name of a path that is short enough for a socket's address (unix(7): 107 bytes)."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def serve(listener: socket.socket, agent: HostPath) -> None:
    """Answer every client until killed."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    pairs: dict[int, _Connection] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                client, _ = listener.accept()
                try:
                    connection = _Connection(client, agent)
                except OSError:
                    client.close()
                    continue
                for end in (connection.client, connection.agent):
                    pairs[end.fileno()] = connection
                    poll.register(end, select.POLLIN)
                continue
            known = pairs.get(descriptor)
            if known is None:
                continue
            if not known.carry(descriptor):
                for end in (known.client, known.agent):
                    poll.unregister(end)
                    del pairs[end.fileno()]
                    end.close()


class _Connection:
    """One client and its own connection to the agent."""

    def __init__(self, client: socket.socket, agent: HostPath) -> None:
        self.client = client
        self.agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._waiting = b""
        try:
            with _short(agent) as name:
                self.agent.connect(name)
        except OSError:
            self.agent.close()
            raise

    def carry(self, descriptor: int) -> bool:
        """Pass on what has come from one end; False at its end, or when it is nonsense."""
        try:
            if descriptor == self.agent.fileno():
                data = self.agent.recv(_READ_BYTES)
                self.client.sendall(data)
                return bool(data)
            data = self.client.recv(_READ_BYTES)
            messages, self._waiting = split_messages(self._waiting + data)
            for message in messages:
                if may_pass(message):
                    self.agent.sendall(message)
                else:
                    self.client.sendall(_FAILURE)
            return bool(data)
        except (OSError, ValueError):
            return False
