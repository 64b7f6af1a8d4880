"""The host's pytest as controller: options, environments, the collection's proxies, the loop, what is shown.

It never imports the project's tests or conftest files. `take_over` runs while the command line is parsed; the rest are hooks of
one plugin object per run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.container.door import enter_store
from contain.declared import EnvironmentSettings
from contain.errors import BuildStepFailed, ContainError, InternalError, UsageError, WorkerLost
from pytest_contain.backend import Backend, Suite
from pytest_contain.channel import Message
from pytest_contain.collection import Collection, replay
from pytest_contain.comparison import Comparison, render_causes, render_table
from pytest_contain.environments import choose_environments
from pytest_contain.lane import Ended, Lane, WorkerStart
from pytest_contain.loop import InternalErrorInside, Loop, LoopSettings, Stop
from pytest_contain.options import OptionShape, SplitArguments, WorkerTokens, parse_processes, split_arguments
from pytest_contain.plugin import CONTROLLER, INI_NAMES, MARKER
from pytest_contain.progress import TerminalProgress
from pytest_contain.reports import rebuild_warning

if TYPE_CHECKING:
    from contain.environment import Environment, EnvironmentDiff

_FILTER_NOT_IMPORTED = "Failed to import filter module"
_ARITY = {None: "1", 0: "0", "?": "?", "*": "*", "+": "+"}


def option_shapes(parser: pytest.Parser) -> dict[str, OptionShape]:
    """Every option that the host's parser knows."""
    optparser = getattr(parser, "optparser", None) or parser._getparser()  # type: ignore[attr-defined]
    return {
        name: OptionShape(arity=_ARITY.get(action.nargs, "1"))
        for name, action in optparser._option_string_actions.items()
        if action is not None
    }


def take_over(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Split the command line, and set this process up so that it imports nothing of the project's.

    ``args`` is what pytest goes on to parse: what only the worker knows is taken out of it. Raises `pytest.UsageError`.
    """
    try:
        split = split_arguments(args, option_shapes(parser))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    try:
        enter_store()
    except ContainError as error:
        raise pytest.UsageError(f"{error} ({error.code})") from error
    early_config.stash[CONTROLLER] = Controller(split)
    args[:] = split.host
    namespace = early_config.known_args_namespace
    namespace.noconftest = True
    namespace.pythonwarnings = []  # filters may name classes of the project; they are obeyed inside
    inicache: dict[str, Any] = early_config._inicache
    inicache["filterwarnings"] = []
    inicache["pythonpath"] = []
    # pytest tried the filters once before any plugin was loaded; what it could not import is here only inside.
    history: list[Any] = getattr(early_config.hook.pytest_warning_recorded, "_call_history", None) or []
    history[:] = [call for call in history if not str(call[0]["warning_message"].message).startswith(_FILTER_NOT_IMPORTED)]
    unknown = getattr(early_config, "_get_unknown_ini_keys", None)
    for name in unknown() if unknown is not None else ():
        parser.addini(name, "known to the environment's plugins, or refused there", default=None)


class Controller:
    """The plugin object of a run with ``--in-container``."""

    def __init__(self, split: SplitArguments) -> None:
        self.split = split
        self.config: pytest.Config
        self.progress: TerminalProgress
        self.settings: tuple[EnvironmentSettings, ...] = ()
        self.loop_settings: LoopSettings
        self.lanes: dict[str, Lane] = {}
        self.collections: list[Collection] = []
        self.stack = contextlib.ExitStack()
        self.ran = False
        self.comparison: Comparison | None = None
        self.modules: dict[str, list[str]] = {}
        self.facts: dict[str, Environment] = {}

    # -- options --------------------------------------------------------------------------------------------------------

    def prepare(self, config: pytest.Config) -> None:
        """Read the options. Raises `pytest.UsageError`."""
        self.config = config
        self.progress = TerminalProgress(config)
        try:
            timeout = config.getoption("--contain-timeout")
            self.loop_settings = LoopSettings(
                isolation=_choice(
                    config.getoption("--contain-isolation") or config.getini("contain_isolation"),
                    ("test", "module", "session"),
                    "contain_isolation",
                ),
                concurrency=parse_processes(self.split.processes, available=len(os.sched_getaffinity(0))),
                timeout_seconds=timeout if timeout is not None else _seconds(config),
                leftover=_choice(config.getini("contain_leftover"), ("fail", "warn", "ignore"), "contain_leftover"),
            )
        except ContainError as error:
            raise pytest.UsageError(str(error)) from error

    def suite(self) -> Suite:
        """Which directories appear inside."""
        root, working = self.config.rootpath, Path(self.config.invocation_params.dir)
        project = root
        if not working.is_relative_to(root):
            if not root.is_relative_to(working) or len(working.parts) < 3:
                raise UsageError(
                    f"the working directory {working} is not part of the project at {root}",
                    code="outside-project",
                    remedy=f"run pytest in {root}, or below it",
                )
            project = working
        return Suite(project_directory=project, working_directory=working, concurrency=self.loop_settings.concurrency)

    def worker_start(self) -> WorkerStart:
        """What the workers are told."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        coloured = reporter is not None and self.config.get_terminal_writer().hasmarkup
        extra = [
            WorkerTokens(tokens=("-o", "addopts=")),
            WorkerTokens(tokens=("-p", "no:contain")),  # an environment may have this very plugin
            WorkerTokens(tokens=(f"--rootdir={self.config.rootpath}",)),
            WorkerTokens(tokens=(f"--color={'yes' if coloured else 'no'}",), optional_name="--color"),
        ]
        names = [f"@{settings.name}" for settings in self.settings] if len(self.settings) > 1 else []
        arguments = [_without_suffix(group, names) for group in self.split.worker]
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        started_with_m = spec is not None and spec.name in ("pytest.__main__", "pytest")
        return WorkerStart(
            arguments=(*arguments, *extra),
            argv=("pytest", *self.config.invocation_params.args),
            ini_names=INI_NAMES,
            markers=(MARKER,),
            compares=len(self.settings) > 1,
            docs=bool(self.config.option.collectonly) and self.config.getoption("verbose") > 0,
            terminal=self.config.getoption("capture") == "no",
            working_directory=str(self.config.invocation_params.dir),
            current_directory_first=started_with_m,
        )

    # -- the session ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, object, object]:
        """Make the environments ready before anything is shown, because the header shows them."""
        self.open_environments()
        return (yield)

    def open_environments(self) -> None:
        """Build images, open sessions."""
        backend: Backend | None = self.config.hook.pytest_contain_make_backend(config=self.config)
        try:
            self.settings = choose_environments(self.config)
            if backend is None:
                from pytest_contain.containers import ContainBackend

                backend = ContainBackend(self.config)
            start, suite = self.worker_start(), self.suite()
            for settings in self.settings:
                lane = Lane(settings, backend, suite, start, self.progress)
                self.lanes[settings.name] = self.stack.enter_context(lane)
                self.name_in_junit_file(lane)
                lane.start_worker()
                ended = lane.configure(self.record_warning)
                if ended is not None:
                    self.close()
                    self.end_as(ended)
                self.config.hook.pytest_contain_environment_ready(
                    config=self.config, name=settings.name, digest=lane.prepared.digest
                )
        except ContainError as error:
            self.close()
            self.give_up(error)

    def name_in_junit_file(self, lane: Lane) -> None:
        """The environment and its image's digest are properties of the test suite."""
        from _pytest.junitxml import xml_key

        xml = self.config.stash.get(xml_key, None)
        if xml is not None:
            suffix = f".{lane.name}" if len(self.settings) > 1 else ""
            xml.add_global_property(f"contain.environment{suffix}", lane.name)
            xml.add_global_property(f"contain.image{suffix}", lane.prepared.digest)

    def give_up(self, error: ContainError) -> None:
        """End the run because of an error of ours: 3 if it is our fault or a worker's, 4 if the reader can do something."""
        status = (
            pytest.ExitCode.INTERNAL_ERROR if isinstance(error, (InternalError, WorkerLost)) else pytest.ExitCode.USAGE_ERROR
        )
        reason = f"{error} ({error.code})"
        if isinstance(error, BuildStepFailed) and error.log_tail:
            reason = f"{error.log_tail.rstrip()}\n{reason}"
        if status == pytest.ExitCode.USAGE_ERROR:
            raise pytest.UsageError(reason) from error
        raise pytest.exit.Exception(reason, returncode=int(status)) from error

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        """Which environment, which image, what is isolated from what."""
        scope = {
            "test": "one container per test",
            "module": "one container per module",
            "session": "one container for all tests",
        }
        how = scope[self.loop_settings.isolation]
        if self.loop_settings.concurrency > 1:
            how += f", {self.loop_settings.concurrency} at a time"
        lines = [f"environment: {lane.name} ({lane.prepared.summary}), {how}" for lane in self.lanes.values()]
        lines.extend(dict.fromkeys(line for lane in self.lanes.values() for line in lane.info.get("header", ())))
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Have the workers collect, then let pytest collect the proxies."""
        several = len(self.lanes) > 1
        endings: list[Ended] = []
        try:
            for lane in self.lanes.values():
                collection = Collection(environment=lane.name, suffix=f"@{lane.name}" if several else "")
                ended = lane.collect(collection, self.record_warning)
                if ended is not None:
                    endings.append(ended)
                self.collections.append(collection)
        except ContainError as error:
            self.close()
            self.give_up(error)
        self.show_collecting()
        early = [ended for ended in endings if ended.status in (2, 3) or ended.status > 5 or ended.cause is not None]
        if early:
            self.end_as(early[0])
        known = [collection for collection in self.collections if collection.root_number is not None]
        replay(session, known)
        if endings:
            self.end_as(endings[0])
        return True

    def show_collecting(self) -> None:
        """What pytest's reporter says when a collection starts; our hook comes before its own."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.pytest_collection()

    def record_warning(self, message: Message) -> None:
        """A warning of a worker that collects."""
        self.config.hook.pytest_warning_recorded.call_historic(kwargs=rebuild_warning(message))

    def end_as(self, ended: Ended) -> None:
        """End the session as a worker's session ended."""
        if ended.cause is not None:
            self.stop(ended.cause)
        text = ended.log.rstrip("\n")
        if ended.status == pytest.ExitCode.USAGE_ERROR:
            text = text.replace("pytest.main()", "pytest")
            errors = [part.rstrip() for part in f"\n{text}".split("\nERROR: ") if part.strip()]
            raise pytest.UsageError(*(errors or ["the pytest inside refused its arguments"]))
        if ended.status == pytest.ExitCode.INTERNAL_ERROR:
            raise InternalErrorInside("\n" + text.replace("INTERNALERROR> ", ""))
        if ended.status == pytest.ExitCode.TESTS_FAILED:
            raise self.config_session_failed(text)
        raise pytest.exit.Exception(text or "the pytest inside ended", returncode=ended.status)

    def config_session_failed(self, text: str) -> BaseException:
        """The worker stopped at ``--maxfail`` while it collected; the replay normally stops by itself."""
        return pytest.Session.Failed(text or "stopping after failures")

    def stop(self, message: Message) -> None:
        """End the session as a test, or a hook inside, asked."""
        if message["type"] == "exit":
            status = message.get("status")
            raise pytest.exit.Exception(str(message.get("reason", "")), returncode=status if isinstance(status, int) else None)
        if message["type"] == "interrupt":
            raise KeyboardInterrupt
        raise InternalErrorInside("\n" + str(message.get("text", "")))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop: the same rules, the tests inside."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            number = session.testsfailed
            raise session.Interrupted(f"{number} error{'s' if number != 1 else ''} during collection")
        if session.config.option.collectonly:
            return True
        self.ran = True
        try:
            loop = Loop(session, self.lanes, self.loop_settings)
            self.modules = loop.modules
            if len(self.lanes) > 1:
                self.comparison = Comparison(tuple(self.lanes))
            loop.run()
            self.capture_if_different()
        except Stop as stop:
            self.stop(stop.message)
        except ContainError as error:
            self.give_up(error)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """The words of the suite's own conftest files, which only the inside knows."""
        return getattr(report, "_contain_status", None)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Outcomes for the comparison."""
        if self.comparison is not None:
            self.comparison.record(report)

    def capture_if_different(self) -> None:
        """Read the facts of the environments whose outcomes differ, while their engines are open."""
        if self.comparison is None or not self.comparison.differing():
            return
        for lane in self.lanes.values():
            if lane.prepared.capture is not None:
                try:
                    self.facts[lane.name] = lane.prepared.capture()
                except ContainError as error:
                    self.progress.warn(f"environment {lane.name!r} cannot be compared: {error}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let the workers' sessions end, then take everything down."""
        for lane in self.lanes.values():
            if hasattr(lane, "control"):
                with contextlib.suppress(ContainError, OSError):
                    for message in lane.finish_worker(session.testsfailed):
                        if message["type"] == "warning":
                            self.record_warning(message)
        self.close()

    def pytest_unconfigure(self) -> None:
        """Whatever happened: nothing is left."""
        self.close()

    def close(self) -> None:
        """Take down every environment. May be called again."""
        self.stack.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """How many containers ran."""
        if not self.ran or terminalreporter.no_summary or self.config.get_verbosity() < 0:
            return
        for lane in self.lanes.values():
            used = len(lane.used)
            text = f"{lane.name}: {used} container{'' if used == 1 else 's'}"
            if lane.prepared.build_seconds >= 0.5:
                text += f", image built in {lane.prepared.build_seconds:.1f} s"
            terminalreporter.write_line(text)
        if self.comparison is not None:
            self.show_comparison(terminalreporter, self.comparison)

    def show_comparison(self, reporter: Any, comparison: Comparison) -> None:
        """Outcomes side by side, and the likely causes."""
        differing = comparison.differing()
        names = (
            " and ".join(comparison.environments) if len(comparison.environments) == 2 else ", ".join(comparison.environments)
        )
        if not differing:
            reporter.write_line(f"{names}: the same outcome for each of {len(comparison.outcomes)} tests")
            return
        reporter.section("environments", sep="=")
        for line in render_table(comparison.environments, differing):
            reporter.write_line(line)

        @functools.cache
        def diff_of(good: str, bad: str) -> EnvironmentDiff:
            from contain.environment import compare

            return compare(self.facts[good], self.facts[bad])

        if len(self.facts) == len(self.lanes):
            reporter.write_line("")
            for line in render_causes(comparison, differing, diff_of, self.modules):
                reporter.write_line(line)
            reporter.write_line(f"everything that differs: contain diff {' '.join(comparison.environments[:2])}")


def _choice(value: str, choices: Sequence[str], name: str) -> str:
    if value not in choices:
        raise UsageError(f"{name}: {value!r} is none of {', '.join(choices)}", code="bad-setting")
    return value


def _seconds(config: pytest.Config) -> float:
    try:
        value = float(config.getini("contain_timeout"))
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise UsageError(f"contain_timeout is not a number of seconds: {error}", code="bad-setting") from error
    if value < 0:
        raise UsageError(f"contain_timeout: {value} is negative", code="bad-setting")
    return value


def _without_suffix(group: WorkerTokens, suffixes: Sequence[str]) -> WorkerTokens:
    token = group.tokens[0]
    for suffix in suffixes:
        if len(group.tokens) == 1 and not token.startswith("-") and "::" in token and token.endswith(suffix):
            return replace(group, tokens=(token.removesuffix(suffix),))
    return group
