"""The plugin's entry point: declares what users type, and loads the rest only where it is used.

Importing it imports nothing of ``contain``: every pytest run of an installation imports it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_contain.fixtures import CONTAINER, contain, container, image  # noqa: F401 - pytest finds fixtures by name in plugin modules

if TYPE_CHECKING:
    from pytest_contain.controller import Controller

CONTROLLER: pytest.StashKey[Controller] = pytest.StashKey()

MARKER = "contain(timeout=SECONDS): how one test runs in its container with --in-container"

_TIMEOUT_HELP = "Seconds after which a test in a container is ended; 0 is no limit"

INI_NAMES = ("contain_env", "contain_isolation", "contain_timeout", "contain_leftover")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our own hooks."""
    from pytest_contain import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Options, each with its setting in the ini file."""
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None and "--in-container" in (
        *config.invocation_params.args,
        *os.environ.get("PYTEST_ADDOPTS", "").split(),
    ):
        config._inicache["required_plugins"] = []  # of the environment, where they are looked for
    group = parser.getgroup("contain", "tests in containers")
    group.addoption("--in-container", action="store_true", help="Run each test in its own container of the environment.")
    group.addoption(
        "--contain-env",
        action="append",
        metavar="NAME",
        help="Environment to run in, as declared in [tool.contain.environments.NAME]; give it twice to compare two.",
    )
    group.addoption("--contain-file", metavar="PATH", help="Dockerfile to build the environment from.")
    group.addoption("--contain-target", metavar="STAGE", help="Stage of the Dockerfile to build.")
    group.addoption("--contain-image", metavar="REF", help="Image to run in, instead of building one.")
    group.addoption(
        "--contain-isolation",
        choices=("test", "module", "session"),
        help="What shares one container: nothing but a test (default).",
    )
    group.addoption(
        "--contain-timeout", type=float, metavar="SECONDS", help="End a test that takes longer; 0 is no limit (default)."
    )
    parser.addini("contain_env", "Environments for --in-container", type="args", default=[])
    parser.addini("contain_isolation", "What shares one container: test (default), module or session", default="test")
    with contextlib.suppress(AssertionError, ValueError):  # pytest < 8.4 knows no numbers here
        parser.addini("contain_timeout", _TIMEOUT_HELP, type="float", default=0.0)
    if "contain_timeout" not in parser._inidict:
        parser.addini("contain_timeout", _TIMEOUT_HELP, default="0")
    parser.addini("contain_leftover", "A test that leaves processes running: fail (default), warn or ignore", default="fail")
    alone = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD") and not pluginmanager.hasplugin("xdist")
    if alone or pluginmanager.is_blocked("xdist") or importlib.util.find_spec("xdist") is None:
        group._addoption(
            "-n",
            "--numprocesses",
            dest="contain_processes",
            metavar="N",
            help="With --in-container: tests at one time, or 'auto'.",
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """With ``--in-container``: keep the project's code out of this process, and the options that only it knows for the worker."""
    if early_config.known_args_namespace.in_container:
        _refuse_other_systems()
        from pytest_contain.controller import take_over

        take_over(early_config, parser, args)
    elif getattr(early_config.known_args_namespace, "contain_processes", None) is not None:
        raise pytest.UsageError("-n needs --in-container, or pytest-xdist")
    return (yield)


def _refuse_other_systems() -> None:
    from contain.errors import ContainError
    from contain.host import refuse_other_systems

    try:
        refuse_other_systems()
    except ContainError as error:
        raise pytest.UsageError(f"{error} ({error.code})") from error


def pytest_configure(config: pytest.Config) -> None:
    """Register what ``--in-container`` needs."""
    config.addinivalue_line("markers", MARKER)
    controller = config.stash.get(CONTROLLER, None)
    if controller is not None:
        controller.prepare(config)
        config.pluginmanager.register(controller, "contain-controller")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test that used ``container`` shows what ran in it."""
    report = yield
    used = item.stash.get(CONTAINER, None)
    if used is not None and report.failed and used.results:
        report.sections.append(("container", used.render()))
    return report
