"""Every verb against nonsense: a clear error, Docker's exit status, and never a fault of ours."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from contain.cli.arguments import COMMANDS, NOUNS, REFUSED
from contain.cli.main import main

SECONDS = 40
_ELSEWHERE = ("oci", "unshare")  # other programs' manners
_OWN_ANSWER = ("info", "images", "ps", "doctor", "version", "events", "system df", "system start", "volume ls", "network ls")


class Place:
    """``contain`` with an empty store."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "CONTAIN_HOME": str(home / "store"), "HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.home = home

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *words],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


class Told(NamedTuple):
    """How a command line ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """The same in this process, for what is told before anything is done."""
    monkeypatch.setenv("CONTAIN_HOME", str(tmp_path / "store"))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("contain.cli.main.needs_door", lambda: False)  # pytest itself must not become root of a user namespace

    def call(*words: str) -> Told:
        try:
            status = main(list(words))
        except SystemExit as error:
            status = int(error.code or 0)
        return Told(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("nonsense"))


def told(done: subprocess.CompletedProcess[str] | Told) -> str:
    """The message, which is one of ours."""
    assert "a fault of contain itself" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode != 0, done
    assert "Error: " in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in _ELSEWHERE])
def test_a_flag_that_is_none_is_named(here: Callable[..., Told], name: str) -> None:
    done = here(*name.split(), "--no-such-flag-at-all")
    assert "no-such-flag-at-all" in told(done)
    assert done.returncode == COMMANDS[name].error_status


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in _ELSEWHERE])
def test_help_is_there_for_everything(here: Callable[..., Told], name: str) -> None:
    done = here(*name.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "sage: contain" in done.stdout


NO_SUCH_CONTAINER = [
    *(
        [
            "start",
            "restart",
            "stop",
            "kill",
            "rm",
            "pause",
            "unpause",
            "wait",
            "logs",
            "top",
            "attach",
            "port",
            "export",
            "commit",
        ]
    ),
    *("container diff", "update --cpus 1", "stats --no-stream", "container inspect"),
]


@pytest.mark.parametrize("words", NO_SUCH_CONTAINER)
def test_a_container_that_is_not_there_is_named_in_dockers_words(place: Place, words: str) -> None:
    done = place(*words.split(), "nowhere")
    assert "No such container: nowhere" in told(done)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["exec", "nowhere", "true"], "No such container: nowhere", 1),
        (["rename", "nowhere", "x"], "No such container: nowhere", 1),
        (["cp", "nowhere:/x", "."], "No such container: nowhere", 1),
        (["cp", "a", "b"], "must specify at least one container source", 1),
        (["inspect", "nowhere"], "No such object: nowhere", 1),
        (["image", "inspect", "nowhere"], "No such image: nowhere", 1),
        (["volume", "inspect", "nowhere"], "no such volume", 1),
        (["network", "inspect", "nowhere"], "nowhere", 1),
        (["volume", "rm", "nowhere"], "no such volume", 1),
        (["rmi", "nowhere"], "nowhere", 1),
        (["tag", "nowhere", "x"], "nowhere", 1),
        (["history", "nowhere"], "nowhere", 1),
        (["save", "-o", "x.tar", "nowhere"], "nowhere", 1),
        (["load", "-i", "nowhere.tar"], "nowhere.tar", 1),
        (["import", "nowhere.tar", "x"], "nowhere.tar", 1),
        (["run", "--pull", "never", "nowhere"], "No such image: nowhere", 125),
        (["run", "--detach-keys", "nonsense", "host", "true"], "invalid detach keys", 125),
        (["run", "-a", "nothing", "host", "true"], "valid streams are STDIN, STDOUT and STDERR", 125),
        (["run", "-d", "-a", "stdout", "host", "true"], "Conflicting options: -a and -d", 125),
        (["run", "-it", "host", "true"], "the input device is not a TTY", 1),
        (["events", "--since", "nonsense"], "since", 1),
        (["events", "--filter", "nonsense=1"], "invalid filter", 1),
        (["events", "--format", "{{.Type"], "template", 1),
        (["inspect", "--format", "{{if}}", "nowhere"], "template", 1),
        (["inspect", "--type", "nonsense", "nowhere"], "nonsense", 1),
        (["logs", "--tail", "x", "nowhere"], "tail", 1),
        (["stop", "-t", "x", "nowhere"], "x", 1),
        (["kill", "-s", "NONSENSE", "nowhere"], "NONSENSE", 1),
        (["update", "nowhere"], "you must provide one or more flags", 1),
        (["update", "--memory", "x", "nowhere"], "x", 1),
        (["update", "--restart", "x", "nowhere"], "x", 1),
        (["completion", "tcsh"], "tcsh", 1),
        (["container", "prune", "--filter", "x"], "filter", 1),
        (["info", "-f", "{{.Nope}}"], "Nope", 1),
        (["nonsense"], "'nonsense' is not a contain command", 1),
        (["container", "nonsense"], "nonsense", 1),
        (["container"], "needs one of", 1),
    ],
)
def test_nonsense_is_told_as_such(place: Place, words: list[str], message: str, status: int) -> None:
    done = place(*words)
    assert message in told(done)
    assert done.returncode == status


NEED_ARGUMENTS = [
    name
    for name in COMMANDS
    if name not in (*_ELSEWHERE, *_OWN_ANSWER)
    and not name.endswith("prune")
    and name not in ("login", "logout", "volume create", "stats", "load", "build", "lock", "diff", "capture")
]


@pytest.mark.parametrize("name", NEED_ARGUMENTS)
def test_who_says_too_little_is_told_what_is_missing(here: Callable[..., Told], name: str) -> None:
    done = here(*name.split())
    assert "requires" in told(done) or "must provide" in done.stderr
    assert done.returncode == COMMANDS[name].error_status


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.endswith("prune")] + ["system prune"])
def test_nothing_is_removed_where_nobody_says_yes(
    here: Callable[..., Told], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in ("", "n\n", "perhaps\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = here(*name.split())
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.endswith("Are you sure you want to continue? [y/N] ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_caller_may_close_its_streams(place: Place, closed: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "contain.cli.start", "volume", "create", "data"],
        env=place.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if ">&-" in closed.split() else "data\n")


@pytest.mark.parametrize(
    "name", ["rename", "port", "logs", "attach", "tag", "history", "import", "cp", "version", "info", "events"]
)
def test_who_says_too_much_is_told_so(here: Callable[..., Told], name: str) -> None:
    done = here(name, "one", "two", "three", "four")
    assert "takes no argument" in told(done)
    assert done.returncode == 1


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_commands_that_there_will_not_be_are_refused_by_name(here: Callable[..., Told], name: str) -> None:
    assert f"contain {name} is not supported" in told(here(name, "ls"))


def test_both_forms_of_a_command_are_there() -> None:
    expected = {
        "container": "attach commit cp create diff exec export inspect kill logs ls pause port prune ps rename restart rm run start "
        "stats stop top unpause update wait",
        "image": "build history import inspect load ls prune pull push rm save tag",
        "network": "connect create disconnect inspect ls prune rm",
        "volume": "create inspect ls prune rm",
        "system": "df events info prune",
    }
    for noun, verbs in expected.items():
        assert set(verbs.split()) <= set(NOUNS[noun]), noun
        assert all(target[0] in COMMANDS for target in NOUNS[noun].values())


def test_a_store_that_may_not_be_written_is_an_error_with_a_remedy(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    place_in_the_way = Place(tmp_path)
    place_in_the_way.environment["CONTAIN_HOME"] = str(tmp_path / "file/store")
    assert "file" in told(place_in_the_way("ps"))
