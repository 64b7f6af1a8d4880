"""Runs pytest and writes one JSON line per report: what happened to every test, in each phase, subtests included.

``record.py FILE [PYTEST ARGUMENTS]``; the exit status is pytest's. The same file runs inside an image (Python >= 3.8, standard
library and pytest only) and on the host, where it hears what ``pytest --in-container`` reports. It is no plugin of the suite.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import Any, TextIO

import pytest


class Recorder:
    def __init__(self, out: TextIO) -> None:
        self.out = out

    def write(self, kind: str, **values: Any) -> None:
        self.out.write(json.dumps(dict(values, kind=kind)) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        context = getattr(report, "context", None)
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        self.write(
            "test",
            nodeid=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            subtest=None
            if context is None
            else [str(context.msg), *sorted(context.kwargs)],  # values hold addresses, random numbers
            xfail=getattr(report, "wasxfail", None),
            reason=reason,
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.write("collect", nodeid=report.nodeid, outcome=report.outcome)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.write("deselected", count=len(items))


def installed(name: str) -> dict[str, Any]:
    """Version, and whether it was installed from a directory (and so not from the package index)."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return {"version": None, "from": ""}
    return {"version": found.version, "from": json.loads(found.read_text("direct_url.json") or "{}").get("url", "")}


def main() -> int:
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        recorder = Recorder(out)
        names = ("pluggy", "iniconfig", "packaging", "itsdangerous", "markupsafe", "more-itertools")
        recorder.write("installed", **{name: installed(name) for name in names})
        status = int(pytest.main(sys.argv[2:], plugins=[recorder]))
        recorder.write("end", status=status)
    return status


if __name__ == "__main__":
    sys.exit(main())
