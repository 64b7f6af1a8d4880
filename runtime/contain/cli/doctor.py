"""``contain doctor``: what this machine can do for containers, cause and remedy for what it cannot."""

from __future__ import annotations

import argparse
import sys

from contain.cli.output import render_table


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def doctor(options: argparse.Namespace) -> int:
    """A row for each ability. Exit status 1 if one is missing without which nothing runs."""
    del options
    from contain.container.abilities import probe_abilities
    from contain.host import probe_host

    findings = probe_abilities(probe_host())
    marks = {"good": "ok", "missing": "MISSING", "limited": "limited"}
    sys.stdout.write(
        render_table(("ABILITY", "STATE", "WHAT WAS FOUND"), [(row.name, marks[row.state], row.found) for row in findings])
    )
    for remedy in dict.fromkeys(row.remedy for row in findings if row.remedy):
        names = ", ".join(row.name for row in findings if row.remedy == remedy)
        sys.stdout.write(f"\n{names}: {remedy}")
    if any(row.remedy for row in findings):
        sys.stdout.write("\n")
    return 1 if any(row.state == "missing" and row.needed for row in findings) else 0
