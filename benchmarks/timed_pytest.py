"""Runs pytest and writes how long its tests took, without starting and collecting: ``timed_pytest.py FILE MODE [PYTEST ARGUMENTS]``.

MODE ``plain`` leaves pytest alone. MODE ``fork`` runs each test in a bare fork of this process, which is the least that running every
test in a process of its own can cost: no namespace, no file system, no limits. Standard library and pytest only, Python >= 3.8.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol


class Stopwatch:
    """From the first test's start to the last one's end."""

    def __init__(self, path: str) -> None:
        self.path = path

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, None, None]:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        with open(self.path, "w", encoding="utf-8") as out:
            json.dump({"seconds": seconds, "tests": len(session.items), "failed": session.testsfailed}, out)


class ForkPerTest:
    """Each test's protocol in a child, its reports back through a pipe."""

    def pytest_collection_finish(self) -> None:
        gc.collect()
        gc.freeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        hook, config = item.ihook, item.config
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            reports = runtestprotocol(item, nextitem=None, log=False)
            data = [config.hook.pytest_report_to_serializable(config=config, report=report) for report in reports]
            with open(writer, "w", encoding="utf-8") as out:
                json.dump(data, out)
            os._exit(0)
        os.close(writer)
        with open(reader, encoding="utf-8") as told:
            records: Any = json.load(told)
        os.waitpid(child, 0)
        for record in records:
            report = config.hook.pytest_report_from_serializable(config=config, data=record)
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


if __name__ == "__main__":
    plugins = [Stopwatch(sys.argv[1]), *([ForkPerTest()] if sys.argv[2] == "fork" else [])]
    sys.exit(pytest.main(sys.argv[3:], plugins=plugins))
