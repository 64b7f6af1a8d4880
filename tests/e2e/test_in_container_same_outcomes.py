"""What ``pytest --in-container`` shows is what plain ``pytest`` shows, but for the lines that are ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent

CONFTEST = """
import os
import pytest

def pytest_addoption(parser):
    parser.addoption("--flavour", default="plain", help="of the project's own")
    parser.addoption("--sour", action="store_true")
    parser.addini("project_setting", "of the project's own", default="unset")

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long")
    config.addinivalue_line("markers", "level(n): with an argument")

def pytest_collection_modifyitems(config, items):
    gone = [item for item in items if "never" in item.name]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if "never" not in item.name]
    items.sort(key=lambda item: "first" not in item.name)

def pytest_report_header(config):
    return ["the project's own header", "of two lines"]

def pytest_report_teststatus(report):
    if report.when == "call" and "test_marked" in report.nodeid:
        return "marked", "M", ("MARKED", {"yellow": True})

def pytest_runtest_makereport(item, call):
    item.user_properties.append(("phase", call.when))

@pytest.fixture(scope="session")
def session_value():
    yield [1]

@pytest.fixture(scope="module")
def module_value(session_value):
    yield session_value + [2]

@pytest.fixture(scope="class")
def class_value(module_value):
    return module_value + [3]

@pytest.fixture(autouse=True)
def every(request):
    yield

@pytest.fixture
def flavour(request):
    return request.config.getoption("--flavour")
"""

TESTS = """
import logging
import sys
import unittest
import warnings

import pytest


def test_passes():
    print("to stdout")


def test_fails_with_details():
    left = {"a": 1, "b": [1, 2, 3]}
    print("printed before")
    print("and to stderr", file=sys.stderr)
    logging.getLogger("here").warning("logged")
    assert left == {"a": 1, "b": [1, 2, 4]}


def helper(x):
    raise KeyError(x)


def test_chained():
    try:
        helper("k")
    except KeyError as error:
        raise RuntimeError("outer") from error


@pytest.mark.parametrize("a", [1, 2, "x y", "a::b", "[c]", None])
def test_params(a):
    assert a != 2


@pytest.mark.parametrize("a", [1, 2], ids=["same", "same"])
def test_equal_ids(a):
    assert a


@pytest.mark.skip(reason="not now")
def test_skipped():
    pass


def test_skips_itself():
    pytest.skip("inside")


@pytest.mark.skipif(sys.version_info > (3,), reason="conditional")
def test_skipif():
    pass


@pytest.mark.xfail(reason="known")
def test_xfails():
    assert 0


@pytest.mark.xfail
def test_xpasses():
    pass


@pytest.mark.xfail(strict=True)
def test_xpasses_strictly():
    pass


def test_xfails_itself():
    pytest.xfail("gave up")


def test_warns():
    warnings.warn("careful")
    warnings.warn(DeprecationWarning("old"))


@pytest.mark.slow
def test_marked():
    pass


@pytest.mark.level(n=3)
def test_level():
    pass


def test_scopes(session_value, module_value, class_value):
    assert class_value == [1, 2, 3]


@pytest.fixture
def broken():
    raise OSError("cannot set up")


def test_setup_error(broken):
    pass


@pytest.fixture
def breaks_later():
    yield
    raise ValueError("cannot tear down")


def test_teardown_error(breaks_later):
    pass


def test_properties(record_property):
    record_property("key", "value")
    record_property("odd", object)


def test_flavour(flavour):
    assert flavour in ("plain", "sweet")


def test_group():
    if sys.version_info >= (3, 11):
        raise ExceptionGroup("many", [ValueError(1), TypeError("two")])
    pytest.fail("many")


class TestClass:
    def test_one(self, class_value, tmp_path):
        (tmp_path / "file").write_text("x")

    def test_two(self, capsys):
        print("captured")
        assert capsys.readouterr().out == "captured\\n"


class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.value = 1

    def test_value(self):
        self.assertEqual(self.value, 1)

    def test_wrong(self):
        self.assertEqual(self.value, 2)

    @unittest.skip("unit skip")
    def test_unit_skip(self):
        pass


def test_runs_first():
    pass


def test_never_seen():
    assert 0
"""

MORE = '''
import pytest


def test_subtests(subtests):
    for number in range(3):
        with subtests.test("part", number=number):
            assert number != 1


def test_doc():
    """With a docstring."""


def inner():
    """
    >>> 1 + 1
    3
    """
'''


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\nproject_setting = "set"\naddopts = "-p no:hypothesispytest --strict-config"\n'
    )
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_main=TESTS)
    package = pytester.mkpydir("sub")
    (package / "test_more.py").write_text(MORE)
    return pytester


OURS = re.compile(r"^(environment: .*|\w+: \d+ containers?(, .*)?)\n", re.MULTILINE)


def normal(text: str) -> str:
    text = OURS.sub("", text)
    text = re.sub(r"in \d+\.\d+s", "in T", text)
    text = re.sub(r"^\d+\.\d\ds (setup|call|teardown)", r"T \1", text, flags=re.MULTILINE)
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def both(project: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, pytest.RunResult]:
    common = ("-p", "plain_fork_backend", "-p", "no:cacheprovider", *arguments)
    plain = project.runpytest_subprocess(*common, timeout=60)
    contained = project.runpytest_subprocess("--in-container", *common, timeout=60)
    return plain, contained


@pytest.mark.parametrize(
    "arguments",
    [
        ["-v", "-rA"],
        ["-q", "--tb=short", "-l"],
        ["-vv", "--color=yes", "-W", "error::DeprecationWarning"],
        ["-k", "params or TestClass", "-v"],
        ["-m", "slow or level(n=3)", "-v"],
        ["--collect-only"],
        ["--collect-only", "-q", "sub"],
        ["--collect-only", "-v", "sub"],
        ["--flavour", "sweet", "--sour", "test_main.py::test_flavour", "sub/test_more.py::test_doc", "-v"],
        ["test_main.py::test_params[x y]", "test_main.py::TestUnit", "-vv"],
        ["--maxfail=2", "-v"],
        ["-x", "--runxfail"],
        ["--deselect", "test_main.py::test_params", "--deselect", "test_main.py::TestUnit", "-q"],
        ["--doctest-modules", "sub", "-rA"],
        ["test_main.py::test_nothing", "test_main.py::test_passes"],
        ["nowhere"],
        ["-k", "nothing_like_this"],
        ["-k", "and and"],
        ["--capture=sys", "test_main.py::test_fails_with_details", "test_main.py::TestClass"],
        ["--rootdir=.", "-p", "no:terminal", "sub"],
        ["-o", "console_output_style=count", "-o", "xfail_strict=true", "-rxXs"],
    ],
    ids=" ".join,
)
def test_output_and_exit_status_are_those_of_plain_pytest(project: pytest.Pytester, arguments: list[str]) -> None:
    plain, contained = both(project, *arguments)
    assert normal(contained.stdout.str()) == normal(plain.stdout.str())
    assert normal(contained.stderr.str()) == normal(plain.stderr.str())
    assert contained.ret == plain.ret


def test_collection_errors_are_reported_as_by_plain_pytest(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_broken="import does_not_exist\n",
        test_syntax="def f(:\n",
        test_gone="import pytest; pytest.skip('all', allow_module_level=True)",
    )
    for arguments in ([], ["--continue-on-collection-errors", "-q"], ["-x"], ["test_broken.py::test_x"]):
        plain, contained = both(project, *arguments)
        assert normal(contained.stdout.str()) == normal(plain.stdout.str())
        assert contained.ret == plain.ret


def test_junit_file_names_the_same_cases_with_the_same_outcomes(project: pytest.Pytester) -> None:
    both(project, "--junitxml=report.xml")
    contained = (project.path / "report.xml").read_text()
    project.runpytest_subprocess("-p", "plain_fork_backend", "-p", "no:cacheprovider", "--junitxml=report.xml")
    plain = (project.path / "report.xml").read_text()

    assert '<property name="contain.environment" value="host"' in contained
    contained = re.sub(r'<properties><property name="contain.environment".*?</properties>', "", contained, count=1)

    def without_times(text: str) -> str:
        return re.sub(r'(time|timestamp)="[^"]*"|0x[0-9a-f]+', "", text)

    assert without_times(contained) == without_times(plain)


def test_isolation_levels_and_parallel_runs_have_the_same_outcomes(project: pytest.Pytester) -> None:
    plain = project.runpytest_subprocess("-p", "plain_fork_backend", "-rA", "-q")
    wanted = sorted(line for line in plain.outlines if re.match(r"[A-Z]{4,} ", line))
    for arguments in (
        ["--contain-isolation=module"],
        ["--contain-isolation=session"],
        ["-n3"],
        ["-n", "2", "--contain-isolation=module"],
    ):
        contained = project.runpytest_subprocess("-p", "plain_fork_backend", "-rA", "-q", "--in-container", *arguments)
        assert sorted(line for line in contained.outlines if re.match(r"[A-Z]{4,} ", line)) == wanted, arguments
