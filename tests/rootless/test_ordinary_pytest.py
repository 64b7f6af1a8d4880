"""``pytest --in-container`` as an ordinary user."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import pytest

Ordinary = Any  # tests/rootless/conftest.py

_TESTS = {
    "test_one": """
        import os, pathlib, subprocess

        def test_root_inside():
            assert os.getuid() == 0

        def test_writes_stay_inside():
            pathlib.Path("made").write_text("x")
            pathlib.Path("/etc/made").write_text("x")
            pathlib.Path("/var/tmp/made").write_text("x")

        def test_starts_afresh():
            assert not pathlib.Path("made").exists()
            assert not pathlib.Path("/etc/made").exists()

        def test_sees_its_own_processes_only():
            assert len([name for name in os.listdir("/proc") if name.isdigit()]) <= 3

        def test_leaves_a_process():
            subprocess.Popen(["sleep", "100"])

        def test_has_loopback_only():
            assert os.listdir("/sys/class/net") == ["lo"]

        def test_fails():
            assert False

        def test_dies():
            os.kill(os.getpid(), 9)
    """
}


def run(user: Ordinary, *arguments: str) -> Any:
    project = user.place / "project"
    project.mkdir(exist_ok=True)
    (project / "pytest.ini").write_text("[pytest]\n")
    for name, source in _TESTS.items():
        (project / f"{name}.py").write_text(textwrap.dedent(source))
    user.give(project)
    source = f"import os; os.chdir({str(project)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    return user.python(
        source,
        "--in-container",
        "-p",
        "pytest_contain.plugin",
        "-p",
        "no:cacheprovider",
        "-rA",
        *arguments,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )


@pytest.mark.parametrize("kind", ["ordinary", "single"])
@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_each_test_has_its_own_container(kind: str, options: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    user = request.getfixturevalue(kind)
    done = run(user, *options)
    assert "2 failed, 6 passed, 1 error" in done.stdout, (done.stdout, done.stderr)
    assert ("no limits: no control group" in done.stdout) == ("no process limits" in user.contain("doctor").stdout)
    assert "test_leaves_a_process" in done.stdout
    assert "left 1 process behind" in done.stdout
    assert "SIGKILL" in done.stdout or "signal 9" in done.stdout
    assert not (user.place / "project" / "made").exists()
    assert not os.path.exists("/var/tmp/made")
    assert not list((user.store / "run" / "work").iterdir())
