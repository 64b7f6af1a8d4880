from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.host_root import image_trees
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.errors import BuildStepFailed
from contain.progress import Silent
from contain.registry.platform import host_platform
from contain.store import RootView, Store

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
BASE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


class Output(Silent):
    def __init__(self) -> None:
        self.text = ""

    def log(self, text: str) -> None:
        self.text += text


@pytest.fixture
def context(context: Path) -> Path:
    shutil.copy(BUSYBOX, context / "busybox")
    return context


def build_host(**values: Any) -> BuildHost:
    return BuildHost(platform=host_platform(), **values)


def run_build(
    text: str,
    context: Path,
    store: Store,
    *,
    host: BuildHost | None = None,
    output: Output | None = None,
    build_args: dict[str, str] | None = None,
) -> BuildResult:
    request = BuildRequest(context=context, dockerfile_text=BASE + text, build_args=build_args or {})
    return build(request, store=store, progress=output or Output(), host=host or build_host())


def paths_of_last_layer(result: BuildResult, store: Store) -> list[str]:
    with RootView([store.layer_tree(result.image.config.diff_ids[-1])]) as view:
        return [str(entry.path) for entry in view.walk()]


def read(result: BuildResult, store: Store, path: str) -> str:
    with RootView(store.layer_trees(result.image)) as view:
        return view.read(path, limit_bytes=1 << 20).decode()


def test_a_layer_holds_what_the_command_changed_and_no_trace_of_the_container(context: Path, store: Store) -> None:
    certificates = context / "ca.pem"
    certificates.write_text("certificates")
    result = run_build(
        "RUN cat $SSL_CERT_FILE $APT_CONFIG > /proof; rm /bin/zcat\n",
        context,
        store,
        host=build_host(ca_bundle=certificates),
    )
    with RootView(store.layer_trees(result.image)) as view:
        assert view.lookup("/bin/zcat", follow=False) is None
    assert read(result, store, "/proof").startswith("certificates")
    assert paths_of_last_layer(result, store) == ["/", "/bin", "/proof"]
    assert "SSL_CERT_FILE" not in dict(result.image.config.environment)


def test_a_command_sees_env_declared_args_proxies_home_and_the_fixed_time(context: Path, store: Store) -> None:
    text = """
COPY <<passwd /etc/
app:x:1000:1001::/home/app:/bin/sh
passwd
ARG DECLARED=default
ARG GIVEN
ARG BOTH=arg
ENV BOTH=env PLAIN="a b"
USER app
WORKDIR /w
RUN echo "$DECLARED|$GIVEN|$BOTH|$PLAIN|$HTTP_PROXY|$HOME|$SOURCE_DATE_EPOCH|$(pwd)|$(id -u):$(id -g)|$(hostname)|$HIDDEN" > out
"""
    host = build_host(proxies=MappingProxyType({"HTTP_PROXY": "http://proxy.example"}), epoch_seconds=1_000_000_000)
    result = run_build(text, context, store, host=host, build_args={"GIVEN": "given", "HIDDEN": "no"})
    expected = "default|given|env|a b|http://proxy.example|/home/app|1000000000|/w|1000:1001|buildcontainer|\n"
    assert read(result, store, "/w/out") == expected
    history = result.image.config.history[-1].created_by
    assert history.startswith("RUN |3 DECLARED=default GIVEN=given BOTH=arg /bin/sh -c echo")
    assert "proxy.example" not in str(result.image.config)


def test_proxies_and_certificates_do_not_change_the_key_but_declared_args_do(context: Path, store: Store) -> None:
    text = "ARG A=1\nRUN echo $A > /a\n"
    first = run_build(text, context, store)
    other_host = build_host(proxies=MappingProxyType({"https_proxy": "http://other"}), ca_bundle=context / "busybox")
    assert run_build(text, context, store, host=other_host).executed_steps == 0
    assert run_build(text, context, store, build_args={"A": "2"}).executed_steps == 1
    assert run_build(text, context, store, build_args={"HTTP_PROXY": "http://x"}).digest == first.digest


def test_a_failed_command_points_at_its_line_shows_its_output_and_is_not_cached(context: Path, store: Store) -> None:
    text = "RUN echo before && \\\n    exit 3\n"
    for _ in range(2):
        with pytest.raises(BuildStepFailed) as caught:
            run_build(text, context, store)
        assert caught.value.status == 3
        assert caught.value.log_tail == "before"
        assert caught.value.span is not None
        assert (caught.value.span.line, caught.value.span.end_line) == (4, 5)


def test_an_image_without_the_shell_says_so(context: Path, store: Store) -> None:
    request = BuildRequest(context=context, dockerfile_text="FROM scratch\nRUN true\n")
    with pytest.raises(BuildStepFailed, match="/bin/sh") as caught:
        build(request, store=store, progress=Output(), host=build_host())
    assert caught.value.status == 127


def test_heredocs_are_scripts_of_the_shell_or_of_their_first_line(context: Path, store: Store) -> None:
    text = """
RUN <<EOF
a=1
echo "shell $a" > /one
EOF
RUN <<EOF
#!/bin/busybox sh
echo "file $0" > /two
EOF
RUN cat <<EOF > /three
hello
EOF
"""
    result = run_build(text, context, store)
    assert read(result, store, "/one") == "shell 1\n"
    assert read(result, store, "/two") == "file /dev/pipes/EOF\n"
    assert read(result, store, "/three") == "hello\n"


def test_network_none_has_loopback_only(context: Path, store: Store) -> None:
    output = Output()
    run_build("RUN --network=none ls /sys/class/net\n", context, store, output=output)
    assert output.text.split() == ["lo"]


def test_the_umask_of_the_caller_does_not_reach_the_command(context: Path, tmp_path: Path) -> None:
    digests = set()
    for number, umask in enumerate((0o022, 0o077)):
        previous = os.umask(umask)
        try:
            with Store.open(tmp_path / f"store{number}") as store:
                digests.add(run_build("RUN mkdir /d && echo x > /d/f\n", context, store).digest)
        finally:
            os.umask(previous)
    assert len(digests) == 1


def test_a_command_that_changes_nothing_makes_no_layer(context: Path, store: Store) -> None:
    result = run_build("RUN true\n", context, store)
    assert len(result.image.config.diff_ids) == 2
    assert result.image.config.history[-1].empty_layer


def test_the_same_output_of_another_command_keeps_later_steps_cached(context: Path, store: Store) -> None:
    run_build("RUN echo x > /x\nRUN echo y > /y\n", context, store)
    result = run_build("RUN printf 'x\\n' > /x\nRUN echo y > /y\n", context, store)
    assert (result.executed_steps, result.cached_steps) == (1, 3)


def test_two_builds_at_once_execute_each_step_once(context: Path, tmp_path: Path) -> None:
    results: list[BuildResult] = []

    def one() -> None:
        with Store.open(tmp_path / "shared") as store:
            results.append(run_build("RUN sleep 0.3; echo x > /x\n", context, store))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.executed_steps for result in results) == 3
    assert len({result.digest for result in results}) == 1


def test_the_host_s_root_is_a_base_that_is_never_written(tmp_path: Path, store: Store) -> None:
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev or "overlay" in root_file_system():
        pytest.skip("needs a memory file system at /dev/shm and a root that is no overlay")
    (tmp_path / "f").write_text("copied")
    text = "FROM host\nCOPY f /contain-test/f\nRUN cat /contain-test/f > /contain-test/g && rm /contain-test/f\n"
    request = BuildRequest(context=tmp_path, dockerfile_text=text)
    result = build(request, store=store, progress=Output(), host=build_host())
    assert not Path("/contain-test").exists()
    assert paths_of_last_layer(result, store) == ["/", "/contain-test", "/contain-test/g"]
    assert image_trees(result.image, store)[0] == Path("/")
    assert not list(Path("/dev/shm").glob("contain-build.*"))


def root_file_system() -> str:
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return next(row[row.index("-") + 1] for row in reversed(rows) if row[4] == "/")
