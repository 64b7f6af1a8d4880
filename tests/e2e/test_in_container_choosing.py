"""Choosing tests happens on the host, with the host's cache, on what the worker collected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent

TESTS = {
    "test_one": "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass",
    "test_two": "def test_d(): pass\ndef test_e(): assert 0",
}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    pytester.makepyfile(**TESTS)
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "plain_fork_backend", "--in-container", *arguments, timeout=60)


def order(result: pytest.RunResult) -> list[str]:
    return [line.split()[0].split("::")[1] for line in result.outlines if line.startswith("test_") and "::" in line]


def test_last_failed_failed_first_and_new_first_use_the_hosts_cache(project: pytest.Pytester) -> None:
    run(project).assert_outcomes(passed=3, failed=2)
    cached = json.loads((project.path / ".pytest_cache/v/cache/lastfailed").read_text())
    assert cached == {"test_one.py::test_b": True, "test_two.py::test_e": True}
    result = run(project, "--lf", "-v")
    result.assert_outcomes(failed=2, deselected=0)
    result.stdout.fnmatch_lines(["*collected 2 items", "run-last-failure: rerun previous 2 failures"])
    assert order(run(project, "--ff", "-v")) == ["test_b", "test_e", "test_a", "test_c", "test_d"]
    project.makepyfile(test_zero="def test_new(): pass")
    assert order(run(project, "--nf", "-v"))[0] == "test_new"


def test_marks_of_modules_classes_and_hooks_choose_tests(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nmarkers =\n    slow\n    late")
    project.makepyfile(
        test_one="import pytest\npytestmark = pytest.mark.slow\ndef test_a(): pass\nclass TestB:\n    def test_b(self): pass",
        test_two="import pytest\n@pytest.mark.slow\nclass TestC:\n    def test_c(self): pass\ndef test_d(): pass\ndef test_e(): pass",
    )
    project.makeconftest(
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        if item.name == 'test_e':\n"
        "            item.add_marker('late')\n"
        "            item.extra_keyword_matches.add('special')\n"
    )
    run(project, "-m", "slow").assert_outcomes(passed=3, deselected=2)
    run(project, "-m", "not slow").assert_outcomes(passed=2, deselected=3)
    run(project, "-m", "late").assert_outcomes(passed=1, deselected=4)
    run(project, "-k", "special").assert_outcomes(passed=1, deselected=4)


def test_stepwise_stops_and_goes_on(project: pytest.Pytester) -> None:
    assert order(run(project, "--sw", "-v")) == ["test_a", "test_b"]
    assert order(run(project, "--sw", "--sw-skip", "-v")) == ["test_b", "test_c", "test_d", "test_e"]


def test_stopping_early_reports_no_test_that_comes_after(project: pytest.Pytester) -> None:
    for arguments in (["-x"], ["--maxfail=1", "-n", "2"], ["-x", "--contain-isolation=session"]):
        result = run(project, "-v", *arguments)
        assert result.parseoutcomes()["failed"] == 1
        result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
        assert result.ret == 1


def test_no_tests_is_never_green(project: pytest.Pytester) -> None:
    assert run(project, "-k", "nothing").ret == 5
    assert run(project, "--ignore=test_one.py", "--ignore=test_two.py").ret == 5


def test_an_ordering_plugin_of_the_host_orders_the_tests(project: pytest.Pytester) -> None:
    project.makepyfile(hostorder="def pytest_collection_modifyitems(items): items.reverse()")
    project.makeini("[pytest]\n")
    result = project.runpytest_subprocess("-p", "plain_fork_backend", "-p", "hostorder", "--in-container", "-v", timeout=60)
    # The worker loads the plugin too, and reverses first: the order is the written one again.
    assert order(result) == ["test_a", "test_b", "test_c", "test_d", "test_e"]


def test_the_project_is_not_imported_on_the_host(project: pytest.Pytester) -> None:
    project.makeconftest("import os, pytest\nassert os.environ.get('WORKER_ONLY')\nimport project_thing")
    project.makepyfile(
        project_thing="import os\nif not os.environ.get('WORKER_ONLY'): raise ImportError\nclass Known(UserWarning): pass"
    )
    project.makepyprojecttoml(
        f"""
        [tool.contain.environments.here]
        image = 'host'
        env = {{ WORKER_ONLY = '1', PYTHONPATH = '{HERE}:.' }}
        [tool.pytest.ini_options]
        filterwarnings = ['error::project_thing.Known']
        plugin_setting = 'x'
        """
    )
    result = run(project, "test_one.py::test_a", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1, warnings=1)  # the unknown setting, once: inside
    assert result.stdout.str().count("Unknown config option: plugin_setting") == 1


def test_required_plugins_are_looked_for_inside(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nrequired_plugins = pytest-not-on-this-machine")
    result = run(project)
    assert result.ret == 4
    assert result.stderr.str().count("Missing required plugins: pytest-not-on-this-machine") == 1


def test_a_dash_n_without_containers_and_without_xdist_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-n", "2", "-p", "no:xdist", timeout=60)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*-n needs --in-container, or pytest-xdist*"])


def test_switched_off_it_is_not_there(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-p", "no:contain", "--in-container", timeout=60)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*unrecognized arguments: --in-container*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pdb"], "--pdb does not work with --in-container yet"),
        (["--contain-env=nope"], "no environment is called 'nope'"),
        (["--contain-file=nope"], "there is no file"),
        (["--contain-image=x", "--contain-target=y"], "excludes"),
        (["-p", "no:xdist", "-n", "some"], "-n some: not a number"),  # else it is xdist that says so
        (["-o", "contain_timeout=soon"], "is not a number of seconds"),
        (["-o", "contain_isolation=planet"], "is none of test, module, session"),
        (["--unknown-option"], "unrecognized arguments: --unknown-option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_usage_errors(project: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = run(project, *arguments)
    assert result.ret == 4
    assert message in result.stderr.str()


ENVIRONMENTS = """
[tool.contain.environments.ci]
image = "host"
env = { WHERE = "ci" }
[tool.contain.environments.deployment]
image = "host"
env = { WHERE = "deployment" }
"""

SEVERAL = """
import os
import pytest

def test_same(): pass
def test_where(): assert os.environ["WHERE"] == "ci"
if os.environ["WHERE"] == "ci":
    def test_only_here(): pass
"""


def test_two_environments_run_side_by_side_and_say_where_they_differ(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    pytester.makepyprojecttoml(ENVIRONMENTS)
    pytester.makepyfile(SEVERAL)
    result = run(pytester, "--contain-env=ci", "--contain-env=deployment", "-v")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        ["environment: ci *", "environment: deployment *", "*::test_same@ci PASSED*", "*::test_where@deployment FAILED*"]
    )
    result.stdout.fnmatch_lines(
        [
            "ci      deployment  test",
            "passed  failed      *::test_where",
            "passed  not run     *::test_only_here",
        ]
    )
    assert result.ret == 1
    result = run(pytester, "--contain-env=ci", "--contain-env=deployment", "-v", "-k", "deployment")
    result.assert_outcomes(passed=1, failed=1, deselected=3)
    name = next(path.name for path in pytester.path.glob("test_*.py"))
    result = run(pytester, "--contain-env=ci", "--contain-env=deployment", f"{name}::test_same@ci", "-n2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["ci and deployment: the same outcome for each of 1 tests"])
