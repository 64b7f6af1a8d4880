"""Build checks: what a Dockerfile says that is accepted, and better said otherwise. A table of rules, and what applies them.

Pure: the text, and what is known around it (`Surroundings`), give `Finding`s. `check_dockerfile` never raises for what a
Dockerfile says; a mistake in the options does.

Where they run. ``contain build --check`` applies every rule. A build applies the rules with the severity of a warning, those of
BuildKit, because their users are used to seeing them and ``# check=error=true`` has to stop a build. This package is imported
where it is used, never with `contain.dockerfile`: importing it and checking a Dockerfile of 40 lines takes 5 to 10 ms, which a build
that changes nothing should not pay each time for what was told before. So a build applies the checks when it has carried out a step,
made an image that was not there, or failed; and before its first step only where the file or a build argument gives options for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from contain.dockerfile.checks.options import CheckOptions, options_above, parse_check_options
from contain.dockerfile.checks.rules import BaseFacts, Finding, Group, Rule, Severity, Subject, Surroundings
from contain.dockerfile.checks.scopes import follow_stages, resolve_globals
from contain.dockerfile.checks.scripts import read_scripts
from contain.dockerfile.checks.table import BUILDKIT_RULES, RULES
from contain.dockerfile.instructions import Dockerfile
from contain.dockerfile.syntax import CHECK_ARGUMENT
from contain.errors import SourceSpan

__all__ = [
    "BUILDKIT_RULES",
    "RULES",
    "BaseFacts",
    "CheckOptions",
    "Finding",
    "Group",
    "Rule",
    "Severity",
    "Surroundings",
    "check_dockerfile",
    "parse_check_options",
    "read_options",
]


def read_options(dockerfile: Dockerfile, surroundings: Surroundings) -> CheckOptions:
    """What the build argument says, or else the directive. Raises `UsageError` (``bad-check``)."""
    text = surroundings.build_args.get(CHECK_ARGUMENT)
    if text is not None:
        return parse_check_options(text)
    return parse_check_options(dockerfile.directives.check or "", span=_directive_span(dockerfile))


def _directive_span(dockerfile: Dockerfile) -> SourceSpan | None:
    for number, line in enumerate(dockerfile.source.split("\n"), 1):
        if not line.lstrip().startswith("#"):
            return None
        if line.lstrip("# \t").lower().startswith("check"):
            text = line.rstrip("\r")
            return SourceSpan(file=dockerfile.file, line=number, end_line=number, length=len(text), text=text)
    return None


def check_dockerfile(
    dockerfile: Dockerfile,
    surroundings: Surroundings | None = None,
    *,
    options: CheckOptions | None = None,
    rules: Iterable[Rule] = RULES,
) -> tuple[Finding, ...]:
    """Everything that the rules object to, in the order of the lines. ``options``: see `read_options`; default: those."""
    surroundings = surroundings or Surroundings()
    options = read_options(dockerfile, surroundings) if options is None else options
    global_values = resolve_globals(dockerfile, surroundings, build_args=surroundings.build_args)
    scopes = follow_stages(dockerfile, surroundings, global_values)
    subject = Subject(
        dockerfile=dockerfile,
        surroundings=surroundings,
        scopes=scopes,
        scripts=cache(lambda: read_scripts(scopes)),
        global_values=global_values,
        default_values=resolve_globals(dockerfile, surroundings, build_args={}),
    )
    findings = [
        Finding(rule=rule, message=found.message, span=found.span)
        for rule in rules
        if not options.waives(rule.name, experimental=rule.experimental)
        for found in rule.check(subject)
        if rule.experimental or not any(options_above(each).waives(rule.name) for each in found.instructions)
    ]
    return tuple(sorted(findings, key=lambda finding: (finding.span.line, finding.span.column, finding.rule.name)))
