"""Whole bootstraps from a real Debian archive, in real containers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from contain.build.debian import provide, provide_debian_base
from contain.container.run import new_container_id, run
from contain.errors import BuildStepFailed, RegistryError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.oci import Image
from contain.progress import Silent
from contain.reference import parse_reference
from contain.spec import ContainerSpec, Identity, Limits, Network
from contain.store import RootView, Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the files of a Debian system have several owners"),
]

AT_ONCE = """
import sys
from contain.build.debian import provide_debian_base
from contain.paths import HostPath
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store

class Notes(Silent):
    def note(self, text):
        print(text)

with Store.open(HostPath(sys.argv[1])) as store:
    print(provide_debian_base(parse_reference(sys.argv[2]), store=store, progress=Notes()).image.digest)
"""


def bootstrap(home: Path, name: str) -> Image:
    with Store.open(home) as store:
        try:
            provided = provide_debian_base(parse_reference(name), store=store, progress=Silent())
        except RegistryError as error:
            pytest.skip(f"needs a Debian mirror: {error}")
    assert provided is not None
    return provided.image


@pytest.fixture(scope="module")
def bookworm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Image]]:
    home = tmp_path_factory.mktemp("bookworm")
    yield home, bootstrap(home, "debian:bookworm")
    shutil.rmtree(home)


def trees(home: Path, image: Image) -> tuple[Path, ...]:
    with Store.open(home) as store:
        return store.layer_trees(image)


def output(home: Path, image: Image, command: str, place: Path) -> str:
    identifier = new_container_id()
    spec = ContainerSpec(
        container_id=identifier,
        name=identifier[:12],
        image_digest=image.digest,
        image_name="",
        layers=trees(home, image),
        upper=None,
        arguments=("bash", "-c", command),
        environment=image.config.environment,
        working_directory=PurePosixPath("/"),
        identity=Identity(),
        hostname="test",
        mounts=(),
        network=Network.NONE,
        limits=Limits(),
        read_only=False,
        terminal=False,
        stop_signal=signal.SIGTERM,
        capabilities=DEFAULT_CAPABILITIES,
    )
    with open(os.devnull, "rb") as nothing, (place / "output").open("wb") as file:
        state = run(spec, stdin=nothing.fileno(), stdout=file.fileno(), stderr=file.fileno())
    text = (place / "output").read_text()
    assert state.status == 0, text
    return text


def test_two_empty_stores_get_the_same_digest_under_another_umask_and_directory(
    bookworm: tuple[Path, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, first = bookworm
    shutil.copytree(home / "debian", tmp_path / "debian", ignore=shutil.ignore_patterns("made-*"))
    monkeypatch.chdir("/")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    previous = os.umask(0o077)
    try:
        second = bootstrap(tmp_path, "debian:bookworm")
    finally:
        os.umask(previous)
    assert second.digest == first.digest
    shutil.rmtree(tmp_path)


def test_every_package_is_configured_and_apt_works(bookworm: tuple[Path, Image], tmp_path: Path) -> None:
    home, image = bookworm
    assert output(
        home, image, "dpkg --audit && apt-get check > /dev/null && . /etc/os-release && echo $VERSION_CODENAME", tmp_path
    ) == ("bookworm\n")
    states = set(output(home, image, "dpkg-query -W -f '${db:Status-Abbrev}\\n'", tmp_path).split("\n"))
    assert states == {"ii ", ""}
    installed = output(home, image, "dpkg-query -W -f '${Package}\\n'", tmp_path).split()
    assert {"apt", "base-files", "debian-archive-keyring", "usr-is-merged"} <= set(installed)
    assert not {"perl", "systemd", "usrmerge", "ca-certificates"} & set(installed)


def test_every_file_is_as_its_package_says(bookworm: tuple[Path, Image], tmp_path: Path) -> None:
    home, image = bookworm
    # Prints what differs from the packages' md5sums, and nothing when all is well.
    assert output(home, image, "dpkg --verify", tmp_path) == ""


def test_nothing_of_the_run_is_left_in_the_tree(bookworm: tuple[Path, Image]) -> None:
    home, image = bookworm
    view = RootView(trees(home, image))
    for gone in (
        *(
            "/contain-bootstrap",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/etc/hosts",
            "/var/log/dpkg.log",
            "/var/log/apt/term.log",
        ),
        *(
            "/var/log/alternatives.log",
            "/var/cache/ldconfig/aux-cache",
            "/etc/passwd-",
            "/etc/shadow-",
            "/var/lib/dpkg/status-old",
        ),
    ):
        assert view.lookup(gone) is None, gone
    for empty in ("/tmp", "/run/lock", "/dev", "/proc", "/sys", "/mnt", "/var/log/apt", "/var/lib/apt/lists/partial"):
        assert view.listdir(empty) == (), empty
    names = [str(entry.path) for entry in view.walk()]
    assert not [name for name in names if name.endswith((".pyc", "-old", ".dpkg-new", ".dpkg-tmp"))]
    sources = view.read("/etc/apt/sources.list.d/debian.sources", limit_bytes=10_000).decode()
    assert set(re.findall("URIs: (.*)", sources)) == {"http://deb.debian.org/debian", "http://deb.debian.org/debian-security"}
    link = view.lookup("/bin", follow=False)
    assert link is not None
    assert os.fsdecode(link.link_target) == "usr/bin"


def test_times_and_accounts_are_the_archives(bookworm: tuple[Path, Image]) -> None:
    home, image = bookworm
    view = RootView(trees(home, image))
    (row,) = image.config.history
    latest = max(entry.mtime_ns for entry in view.walk()) // 10**9
    changed = {line.split(":")[2] for line in view.read("/etc/shadow", limit_bytes=100_000).decode().splitlines()}
    assert changed == {str(latest // 86400)}
    assert re.search(r"Release file of \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, sha256:[0-9a-f]{64}$", row.comment)
    assert image.config.command == ("bash",)
    assert image.config.environment == (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)


def test_a_script_that_fails_says_why_and_leaves_nothing(
    bookworm: tuple[Path, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = bookworm
    shutil.copytree(home / "debian", tmp_path / "debian", ignore=shutil.ignore_patterns("made-*"))
    monkeypatch.setattr(provide, "render_script", lambda *_, **__: "echo the reason; echo > /etc/changed; exit 3\n")
    with pytest.raises(BuildStepFailed, match="failed with status 3:\nthe reason") as caught:
        bootstrap(tmp_path, "debian:bookworm")
    assert caught.value.log_tail == "the reason"
    with Store.open(tmp_path) as store:
        assert store.images() == ()
        assert store.name_source(parse_reference("debian:bookworm")) is None
    assert [*(tmp_path / "tmp").iterdir()] == []
    assert not [*(tmp_path / "debian").glob("made-*")]


@pytest.mark.parametrize(("name", "merged"), [("debian:trixie", True), ("debian:11-slim", False)])
def test_two_processes_at_once_make_one_image(name: str, merged: bool, tmp_path: Path, bookworm: tuple[Path, Image]) -> None:
    home = tmp_path / "store"
    commands = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE, str(home), name], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [command.communicate(timeout=300)[0].splitlines() for command in commands]
    assert [command.returncode for command in commands] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("installing" in line for lines in outputs for line in lines) == 1
    with Store.open(home) as store:
        image = store.image(outputs[0][-1])
    assert output(
        home, image, "dpkg --audit; dpkg --verify; apt-get check > /dev/null; if [ -L /bin ]; then echo merged; fi", tmp_path
    ) == ("merged\n" if merged else "")
    shutil.rmtree(home)
