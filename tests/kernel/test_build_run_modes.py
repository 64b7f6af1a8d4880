"""RUN with another network, with privileges, with heredocs, and special build arguments, on the real kernel.

The cases are BuildKit's own (``dockerfile_{heredoc,runnetwork,runsecurity}_test.go``), told again, and some of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.run.options import NETWORK_HOST, SECURITY_INSECURE, RunOptions
from contain.errors import BuildStepFailed, NotSupported, UsageError
from contain.progress import Silent
from contain.registry.platform import host_platform, parse_platform
from contain.spec import ResourceLimit
from contain.store import RootView, Store
from contain.store.cache_mounts import list_cache_mounts

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
BASE = 'FROM scratch AS busybox\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


class Output(Silent):
    def __init__(self) -> None:
        self.text = ""
        self.warnings: list[str] = []

    def log(self, text: str) -> None:
        self.text += text

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def context(context: Path) -> Path:
    shutil.copy(BUSYBOX, context / "busybox")
    return context


def run_build(
    text: str,
    context: Path,
    store: Store,
    *,
    output: Output | None = None,
    build_args: dict[str, str] | None = None,
    platform: str | None = None,
    **options: Any,
) -> BuildResult:
    request = BuildRequest(
        context=context,
        dockerfile_text=BASE + text,
        build_args=build_args or {},
        run=RunOptions(**options),
        platform=None if platform is None else parse_platform(platform),
    )
    return build(request, store=store, progress=output or Output(), host=BuildHost(platform=host_platform()))


def read(result: BuildResult, store: Store, path: str) -> str:
    with RootView(store.layer_trees(result.image)) as view:
        return view.read(path, limit_bytes=1 << 20).decode()


# -- network --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def greeting_port() -> Iterator[int]:
    """A port of this machine's loopback that says foo to everybody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def greet() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"foo")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        port: int = listener.getsockname()[1]
        yield port
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_the_default_network_has_an_interface_and_none_has_not(context: Path, store: Store) -> None:
    run_build("RUN ip link show eth0\nRUN --network=none ! ip link show eth0\nRUN ip link show eth0 && true\n", context, store)


def test_the_host_s_network_has_to_be_allowed(context: Path, store: Store, greeting_port: int) -> None:
    text = f"RUN --network=host nc 127.0.0.1 {greeting_port} </dev/null | grep foo\nRUN ! nc 127.0.0.1 {greeting_port} | grep foo\n"
    with pytest.raises(UsageError, match="network=host is not allowed") as caught:
        run_build(text, context, store)
    assert caught.value.code == "not-allowed"
    assert caught.value.remedy.endswith("--allow network.host")
    run_build(text, context, store, allowed=frozenset({NETWORK_HOST}))


def test_a_network_for_the_whole_build_is_that_of_every_run_that_names_none(
    context: Path, store: Store, greeting_port: int
) -> None:
    text = f"RUN nc 127.0.0.1 {greeting_port} </dev/null | grep foo\nRUN --network=none ! nc -z 127.0.0.1 {greeting_port}\n"
    run_build(text, context, store, network="host", allowed=frozenset({NETWORK_HOST}))
    with pytest.raises(UsageError):
        run_build(text, context, store, network="host")


def test_nothing_is_carried_out_before_a_forbidden_step(context: Path, store: Store) -> None:
    output = Output()
    with pytest.raises(UsageError):
        run_build("RUN echo done-something\nRUN --network=host true\n", context, store, output=output)
    assert output.text == ""


@pytest.mark.machine
def test_added_hosts_are_known_by_name(context: Path, store: Store) -> None:
    hosts = (("example", "192.0.2.7"), ("me", "host-gateway"))
    result = run_build("RUN grep -e example -e me$ /etc/hosts > /out; ip route > /route\n", context, store, extra_hosts=hosts)
    first, second = read(result, store, "/out").splitlines()
    assert first.split() == ["192.0.2.7", "example"]
    assert f"default via {second.split()[0]} " in read(result, store, "/route")
    # the address is the machine's, the name is the Dockerfile's
    other = (("example", "192.0.2.8"), ("me", "host-gateway"))
    text = "RUN grep -e example -e me$ /etc/hosts > /out; ip route > /route\n"
    assert run_build(text, context, store, extra_hosts=other).executed_steps == 0


def test_limits_and_shared_memory_are_as_asked(context: Path, store: Store) -> None:
    limits = (ResourceLimit(name="nofile", soft=100, hard=200), ResourceLimit(name="core", soft=0, hard=0))
    text = "RUN ulimit -n > /out; ulimit -Hn >> /out; ulimit -c >> /out; df -k /dev/shm | tail -1 | awk '{print $2}' >> /out\n"
    result = run_build(text, context, store, resource_limits=limits, shared_memory_bytes=8 << 20)
    assert read(result, store, "/out").split() == ["100", "200", "0", "8192"]


# -- privileges -----------------------------------------------------------------------------------------------------------------


def test_privileges_have_to_be_allowed_and_are_for_the_one_step(context: Path, store: Store) -> None:
    text = """
RUN --security=insecure bits=$(grep CapBnd /proc/self/status | cut -f 2) && \\
    [ "$(printf '%x' $(( 0x$bits & 0x3fffffffff )))" == "3fffffffff" ]
RUN [ "$(grep CapBnd /proc/self/status)" == "CapBnd:	00000000a80425fb" ]
RUN --security=sandbox [ "$(grep CapBnd /proc/self/status)" == "CapBnd:	00000000a80425fb" ] && true
"""
    with pytest.raises(UsageError, match="security=insecure is not allowed") as caught:
        run_build(text, context, store)
    assert caught.value.remedy.endswith("--allow security.insecure")
    run_build(text, context, store, allowed=frozenset({SECURITY_INSECURE}))


def test_with_privileges_a_step_mounts_and_no_filter_hinders_it(context: Path, store: Store) -> None:
    text = """
RUN --security=insecure mkdir /m && mount -t tmpfs none /m && touch /m/f && grep -e Seccomp: -e NoNewPrivs /proc/self/status > /out
RUN mkdir /n && ! mount -t tmpfs none /n
"""
    result = run_build(text, context, store, allowed=frozenset({SECURITY_INSECURE}))
    assert read(result, store, "/out").split() == ["NoNewPrivs:", "0", "Seccomp:", "0"]


# -- heredocs -------------------------------------------------------------------------------------------------------------------


def test_a_heredoc_is_a_script_for_the_shell(context: Path, store: Store) -> None:
    text = 'RUN <<EOF\necho "i am" >> /dest\nid -u >> /dest\nEOF\n'
    assert read(run_build(text, context, store), store, "/dest") == "i am\n0\n"


def test_a_heredoc_is_a_script_for_what_shell_names(context: Path, store: Store) -> None:
    text = 'SHELL ["/bin/awk"]\nRUN <<EOF\nBEGIN {\n\tprint "foo" > "/dest"\n}\nEOF\n'
    assert read(run_build(text, context, store), store, "/dest") == "foo\n"


def test_a_heredoc_with_an_interpreter_line_is_a_program(context: Path, store: Store) -> None:
    text = """
WORKDIR /dest
RUN <<EOF
#!/bin/awk -f
BEGIN {
	print "hello" >> "./out1"
	print "world" >> "./out1"
}
EOF
RUN <<-EOF
	#!/bin/awk -f
	BEGIN {
		print "hello" >> "./out2"
	}
EOF
"""
    result = run_build(text, context, store)
    assert read(result, store, "/dest/out1") == "hello\nworld\n"
    assert read(result, store, "/dest/out2") == "hello\n"


def test_several_heredocs_are_the_shell_s_own(context: Path, store: Store) -> None:
    text = """
WORKDIR /dest
RUN cat <<EOF1 | tr '[:upper:]' '[:lower:]' > ./out1; \\
	cat <<EOF2 | tr '[:lower:]' '[:upper:]' > ./out2
hello WORLD
EOF1
HELLO world
EOF2

RUN <<EOF 3<<IN1 4<<IN2 awk -f -
BEGIN {
	while ((getline line < "/proc/self/fd/3") > 0)
		print tolower(line) > "./fd3"
	while ((getline line < "/proc/self/fd/4") > 0)
		print toupper(line) > "./fd4"
}
EOF
hello WORLD
IN1
HELLO world
IN2
"""
    result = run_build(text, context, store)
    assert [read(result, store, f"/dest/{name}") for name in ("out1", "out2", "fd3", "fd4")] == [
        "hello world\n",
        "HELLO WORLD\n",
        "hello world\n",
        "HELLO WORLD\n",
    ]


def test_a_dash_takes_leading_tabs_away(context: Path, store: Store) -> None:
    forms = {
        "foo-run": 'RUN <<EOF\necho "\n\tfoo" > /dest/foo-run\nEOF\n',
        "bar-run": 'RUN <<-EOF\necho "\n\tbar" > /dest/bar-run\nEOF\n',
        "foo2-run": 'RUN <<EOF\n#!/bin/sh\necho "\n\tfoo" > /dest/foo2-run\nEOF\n',
        "bar2-run": 'RUN <<-EOF\n#!/bin/sh\necho "\n\tbar" > /dest/bar2-run\nEOF\n',
        "foo3-run": 'RUN <<EOF sh > /dest/foo3-run\necho "\n\tfoo"\nEOF\n',
        "bar3-run": 'RUN <<-EOF sh > /dest/bar3-run\necho "\n\tbar"\nEOF\n',
    }
    result = run_build("WORKDIR /dest\n" + "".join(forms.values()), context, store)
    assert {name: read(result, store, f"/dest/{name}") for name in forms} == {
        name: "\n\tfoo\n" if name.startswith("foo") else "\nbar\n" for name in forms
    }


def test_variables_in_a_script_are_the_shell_s(context: Path, store: Store) -> None:
    text = """
ARG name=world
RUN <<EOF
greeting="Hello"
echo "${greeting} ${name}!" > /r1
EOF
RUN <<EOF
name="new world"
echo "Hello ${name}!" > /r2
EOF
RUN <<'EOF' cat > /r3
$name
EOF
"""
    result = run_build(text, context, store)
    assert [read(result, store, f"/r{number}") for number in (1, 2, 3)] == ["Hello world!\n", "Hello new world!\n", "$name\n"]


def test_heredocs_behind_onbuild_run_in_the_child(context: Path, store: Store) -> None:
    text = """
FROM busybox AS base
ONBUILD RUN <<EOF
echo "hello world" >> /dest
EOF
FROM base
"""
    assert read(run_build(text, context, store), store, "/dest") == "hello world\n"


# -- special arguments, other platforms -----------------------------------------------------------------------------------------


def test_the_host_name_can_be_chosen_and_then_counts(context: Path, store: Store) -> None:
    text = "RUN hostname > /out\n"
    assert read(run_build(text, context, store), store, "/out") == "buildcontainer\n"
    result = run_build(text, context, store, build_args={"BUILDKIT_SANDBOX_HOSTNAME": "foo"})
    assert read(result, store, "/out") == "foo\n"


def test_special_arguments_without_effect_are_named(context: Path, store: Store) -> None:
    output = Output()
    arguments = {"BUILDKIT_INLINE_CACHE": "1", "BUILDKIT_MULTI_PLATFORM": "0", "BUILDKIT_SANDBOX_HOSTNAME": "x"}
    run_build("", context, store, output=output, build_args=arguments)
    (warning,) = [text for text in output.warnings if "BUILDKIT" in text]
    assert warning.startswith("the build argument BUILDKIT_INLINE_CACHE has no effect:")
    assert "--cache-to" in warning


def test_the_time_of_the_build_is_an_argument_where_it_is_declared(context: Path, store: Store) -> None:
    text = "ARG SOURCE_DATE_EPOCH\nLABEL time=$SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /out\n"
    result = run_build(text, context, store)
    assert result.image.config.labels["time"] == "946684800"
    assert read(result, store, "/out") == "946684800\n"


def test_a_foreign_platform_without_an_interpreter_says_what_to_do(context: Path, store: Store) -> None:
    with pytest.raises(NotSupported) as caught:
        run_build("", context, store, platform="linux/s390x")
    assert caught.value.code == "foreign-platform"
    assert "qemu-user-static" in caught.value.remedy


# -- ending in the middle -------------------------------------------------------------------------------------------------------

_SCRIPT = """
import sys
from contain.cli.main import main
sys.exit(main(["build", "-q", sys.argv[1]]))
"""


def _left_over(home: Path) -> list[str]:
    found = [str(path) for path in (home / "run" / "work").glob("*")] + [str(path) for path in (home / "tmp").glob("*")]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    return found


def _containers(home: Path) -> list[str]:
    return [path.name for path in (home / "run" / "work").glob("*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_two_steps_leaves_nothing(number: signal.Signals, context: Path, tmp_path: Path) -> None:
    home = tmp_path / "store"
    text = """
FROM busybox AS a
RUN --mount=type=cache,target=/c,sharing=locked --mount=type=tmpfs,target=/t sleep 1001
FROM busybox AS b
RUN --mount=target=/context,rw sleep 1002
FROM scratch
COPY --from=a / /
COPY --from=b / /
"""
    (context / "Dockerfile").write_text(BASE + text)
    environment = {**os.environ, "CONTAIN_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(context)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 60
        while len(_sleepers()) < 2:
            assert process.poll() is None, process.stdout.read() if process.stdout else b""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        names = _containers(home)
        assert len(names) == 2
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert _sleepers() == []
    assert _left_over(home) == []
    assert [str(path) for name in names for path in Path("/sys/fs/cgroup").glob(f"*/contain/{name}")] == []
    with Store.open(home) as store:
        assert [mount.in_use for mount in list_cache_mounts(store)] == [False]


def test_a_killed_build_leaves_its_cache_to_the_next_one(
    context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "store"
    links = set(os.listdir("/sys/class/net"))
    mount = "--mount=type=cache,target=/c,sharing=locked"
    (context / "Dockerfile").write_text(BASE + f"RUN {mount} echo kept > /c/f; sleep 1001\n")
    monkeypatch.setenv("CONTAIN_HOME", str(home))
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(context)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: len(_sleepers()) == 1)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not _sleepers())
    with Store.open(home) as store:
        result = run_build(f"RUN {mount} cp /c/f /out\n", context, store)
        assert read(result, store, "/out") == "kept\n"
    wait_for(lambda: set(os.listdir("/sys/class/net")) <= links)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _sleepers() -> list[str]:
    """Processes of the steps that would go on for long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:1] == [b"sleep"] and words[1:2] in ([b"1001"], [b"1002"]):
            found.append(path.parent.name)
    return found


def test_a_step_that_fails_ends_the_other_one(context: Path, store: Store) -> None:
    text = """
FROM busybox AS a
RUN sleep 1001
FROM busybox AS b
RUN sleep 0.2; exit 7
FROM scratch
COPY --from=a / /
COPY --from=b / /
"""
    with pytest.raises(BuildStepFailed) as caught:
        run_build(text, context, store)
    assert caught.value.status == 7
    assert _sleepers() == []
