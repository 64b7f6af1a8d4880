"""Applies the build checks to a build: for ``contain build --check``, and for the warnings of an ordinary one.

Reads the Dockerfile, its ignore file and the names in the local store; reaches no registry and carries out nothing. What a rule
objects to is decided by `contain.dockerfile.checks`.
"""

from __future__ import annotations

from collections.abc import Sequence

from contain.annotations import TYPE_CHECKING
from contain.build.contexts.places import context_key
from contain.build.host_root import HOST_NAME, host_config
from contain.build.plan import plan
from contain.build.request import BuildHost, BuildRequest
from contain.build.sources import BuildSources, read_build_host, read_dockerfile_text, read_sources, resolve_request
from contain.dockerfile.checks import (
    RULES,
    BaseFacts,
    Finding,
    Rule,
    Severity,
    Surroundings,
    check_dockerfile,
    read_options,
)
from contain.dockerfile.checks.scopes import SCRATCH
from contain.dockerfile.instructions import Dockerfile
from contain.dockerfile.parse import parse_dockerfile
from contain.dockerfile.patterns import IgnorePatterns
from contain.errors import ContainError, NotFound, NotSupported, SourceSpan, UsageError
from contain.oci import ImageConfig
from contain.reference import parse_reference
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.store import Store

WARNINGS = tuple(rule for rule in RULES if rule.severity is Severity.WARNING)
"""The rules that every build applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownBase:
    """A base image that is not at hand: what depends on it was not checked."""

    name: str
    span: SourceSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What was found. ``text``: the Dockerfile. ``error``: why it cannot be built at all; what stands before it was checked."""

    file: str
    text: str
    findings: tuple[Finding, ...]
    unknown_bases: tuple[UnknownBase, ...] = ()
    error: ContainError | None = None

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that count."""
        return tuple(finding for finding in self.findings if finding.rule.severity is Severity.WARNING)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings that are only told."""
        return tuple(finding for finding in self.findings if finding.rule.severity is Severity.NOTE)


def check(request: BuildRequest, *, store: Store, host: BuildHost | None = None) -> CheckReport:
    """Apply every rule, and see whether the file could be built. Raises only for a file that cannot be read, and bad options."""
    host = read_build_host(build_args=request.build_args) if host is None else host
    try:
        sources = read_sources(request)
    except UsageError as error:
        if error.span is None:
            raise
        return _check_before(error, request, store=store, host=host)
    return _check_sources(sources, request, store=store, host=host)


def warnings_of(
    sources: BuildSources, request: BuildRequest, *, store: Store, host: BuildHost, rules: Sequence[Rule] = WARNINGS
) -> tuple[Finding, ...]:
    """What an ordinary build warns of."""
    return check_dockerfile(sources.dockerfile, _surroundings(sources.ignore, request, store, host, {}), rules=rules)


def refuse_warnings(sources: BuildSources, request: BuildRequest, *, store: Store, host: BuildHost) -> None:
    """For a file that says ``# check=error=true``: raise `UsageError` (``check-failed``) at the first warning."""
    options = read_options(sources.dockerfile, _surroundings(sources.ignore, request, store, host, {}))
    if not options.error:
        return
    found = warnings_of(sources, request, store=store, host=host)
    if found:
        names = ", ".join(sorted({finding.rule.name for finding in found}))
        raise UsageError(
            f"{found[0].message} ({found[0].rule.name})",
            code="check-failed",
            span=found[0].span,
            remedy=f"the file forbids warnings with check=error=true, and has {len(found)}: {names}",
        )


def _check_sources(sources: BuildSources, request: BuildRequest, *, store: Store, host: BuildHost) -> CheckReport:
    dockerfile = sources.dockerfile
    looked_for: dict[str, bool] = {}
    findings = check_dockerfile(dockerfile, _surroundings(sources.ignore, request, store, host, looked_for))
    return CheckReport(
        file=dockerfile.file,
        text=dockerfile.source,
        findings=findings,
        unknown_bases=_unknown(dockerfile, looked_for),
        error=_first_error(dockerfile, request, store=store, host=host),
    )


def _check_before(error: UsageError, request: BuildRequest, *, store: Store, host: BuildHost) -> CheckReport:
    """What stands before the line that is no Dockerfile's."""
    assert error.span is not None
    text = read_dockerfile_text(request).text
    lines = text.split("\n")[: error.span.line - 1]
    findings: tuple[Finding, ...] = ()
    try:
        dockerfile = parse_dockerfile("\n".join(lines), file=error.span.file)
    except UsageError:
        pass  # nothing before it that could be checked
    else:
        findings = check_dockerfile(dockerfile, _surroundings(IgnorePatterns(), request, store, host, {}))
    return CheckReport(file=error.span.file, text=text, findings=findings, error=error)


def _first_error(dockerfile: Dockerfile, request: BuildRequest, *, store: Store, host: BuildHost) -> ContainError | None:
    """What a build would say before its first step: of the target, then of the other stages as far as they are wrong anywhere."""
    try:
        plan(request, store=store, host=host)
    except (UsageError, NotFound, NotSupported) as error:
        return error
    for index in range(len(dockerfile.stages) if request.target is None else 0):
        try:
            resolve_request(dockerfile, replace(request, target=str(index)), host)
        except (UsageError, NotFound) as error:
            return error
        except NotSupported:
            continue  # nobody asked for this stage
    return None


def _unknown(dockerfile: Dockerfile, looked_for: dict[str, bool]) -> tuple[UnknownBase, ...]:
    missing = [name for name, known in looked_for.items() if not known]
    return tuple(
        UnknownBase(
            name=name, span=next((stage.span for stage in dockerfile.stages if stage.base == name), dockerfile.stages[0].span)
        )
        for name in missing
    )


def _surroundings(
    ignore: IgnorePatterns, request: BuildRequest, store: Store, host: BuildHost, looked_for: dict[str, bool]
) -> Surroundings:
    def find_base(name: str) -> BaseFacts | None:
        config = None if context_key(name) in request.contexts else _config_of(name, store)
        looked_for[name] = config is not None
        if config is None:
            return None
        return BaseFacts(environment=dict(config.environment), platform=str(config.platform), shell=config.shell)

    return Surroundings(
        build_args=request.build_args,
        ignore=ignore,
        platform=str(request.platform or host.platform),
        build_platform=str(host.platform),
        target=request.target,
        find_base=find_base,
    )


def _config_of(name: str, store: Store) -> ImageConfig | None:
    """The config of an image of the local store. None for one that is not there, and for what is no image's name."""
    if name == SCRATCH:
        return None
    try:
        reference = parse_reference(name)
    except UsageError:
        return None
    if reference.name == HOST_NAME:
        return host_config()
    known = store.name_source(reference)
    if known is None:
        return None
    try:
        return store.image(known[0]).config
    except NotFound:
        return None
