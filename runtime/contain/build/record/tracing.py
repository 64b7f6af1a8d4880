"""Keeps what a build does, step by step, and gives it as a `BuildRecord`. Stages are built side by side: each has its own list."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.build.bases import FoundBase
from contain.build.graph import BuildGraph, ContextBase, ImageBase, ScratchBase, StageBase, StagePlan
from contain.build.record.values import BuildRecord, BuiltBase, BuiltStage, BuiltStep, RemoteSource
from contain.build.steps import CopyStep, RunStep, Step
from contain.dockerfile.instructions import Instruction
from contain.oci import digest_of

if TYPE_CHECKING:
    from contain.build.fetch.git_reference import GitReference, GitRevision
    from contain.build.request import BuildRequest
    from contain.store import StepRecord

_TEXT_LENGTH = 300
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@")
EPOCH_NAME = "SOURCE_DATE_EPOCH"


def public_address(url: str) -> str:
    """An address as it may be written down: without a password, and without the values of parameters that look secret."""
    from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

    from contain.build.fetch.git_reference import hide_password
    from contain.environment.facts import looks_secret  # brings all of its package

    parts = urlsplit(hide_password(url))
    pairs = [
        (name, "hidden" if looks_secret(name) or name.lower() == "sig" else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(pairs), ""))


def git_source(reference: GitReference, revision: GitRevision) -> RemoteSource:
    """A commit, by the name under which it was asked for."""
    wanted = f"{reference.ref}{f':{reference.subdir}' if reference.subdir else ''}"
    return RemoteSource(uri=f"git+{reference.shown}{f'#{wanted}' if wanted else ''}", commit=revision.commit)


def layout_source(name: str, digest: str) -> RemoteSource:
    """An image of an OCI layout, by the name of the context that it is; where the layout lies is this machine's matter."""
    from contain.attestation.purl import package_url

    return RemoteSource(uri=package_url("oci", name, ""), digest=digest)


def base_name(name: str, platform: str, target: str) -> str:
    """What a base is called in a record: the platform is named where it is not the target's."""
    return name if platform == target else f"{name} for {platform}"


def step_text(instruction: Instruction) -> str:
    """An instruction as it is written, in one line, heredocs included; of a long one the beginning and a digest of the whole."""
    text = " ".join(instruction.source.split())
    if len(text) <= _TEXT_LENGTH:
        return text
    return f"{text[: _TEXT_LENGTH - 40]}... ({digest_of(text.encode(errors='surrogateescape'))[:23]})"


def _switches(request: BuildRequest) -> tuple[tuple[str, bool], ...]:
    """What changes the bytes of the same Dockerfile."""
    return (("reproducible", request.reproducible), ("strict-modes", request.strict_modes))


class Trace:
    """One build's steps. Filled by the builder. ``network``: of a RUN that says nothing of it."""

    def __init__(self, graph: BuildGraph, *, network: str = "default") -> None:
        self._graph, self._network = graph, network
        self._stages: dict[int, tuple[StagePlan, list[BuiltStep]]] = {}
        self.remotes: list[RemoteSource] = []

    def begin(self, plan: StagePlan) -> None:
        """A stage's base is there."""
        self._stages[plan.index] = (plan, [])

    def add(self, plan: StagePlan, step: Step, record: StepRecord | None) -> None:
        """A step is done."""
        from_context = isinstance(step, CopyStep) and (
            not all(source.lower().startswith(_REMOTE) for source in step.sources)
            if step.source_name is None
            else self._graph.find_context(step.source_name) is not None
        )
        network = step.network if isinstance(step, RunStep) else "none"
        built = BuiltStep(
            text=step_text(step.instruction),
            layer=None if record is None else record.diff_id,
            networked=(self._network if network == "default" else network) != "none",
            from_context=from_context,
        )
        self._stages[plan.index][1].append(built)

    def record(
        self,
        request: BuildRequest,
        *,
        dockerfile: str,
        dockerfile_digest: str,
        epoch_seconds: int,
        found: Mapping[tuple[str, str], FoundBase],
    ) -> BuildRecord:
        """Everything, in an order that does not depend on which stage was done first."""
        bases = {
            name: BuiltBase(name=name, digest=base.image.digest, platform=platform, source=base.source.source)
            for (_, platform), base in sorted(found.items())
            for name in (base_name(base.source.name, platform, str(self._graph.platform)),)
        }
        context = () if request.context_source is None else (request.context_source,)
        remotes = sorted({*self.remotes, *context}, key=lambda each: (each.uri, each.digest, each.commit))
        return BuildRecord(
            dockerfile=dockerfile,
            dockerfile_digest=dockerfile_digest,
            target=request.target or "",
            platform=str(self._graph.platform),
            epoch_seconds=epoch_seconds,
            build_args=MappingProxyType(
                {name: value for name, value in sorted(request.build_args.items()) if name != EPOCH_NAME}
                | {f"--label {name}": value for name, value in sorted(request.labels.items())}
            ),
            options=MappingProxyType({name: True for name, value in _switches(request) if value}),
            bases=tuple(bases[name] for name in sorted(bases)),
            remotes=tuple(remotes),
            stages=tuple(self._stage(plan, steps) for _, (plan, steps) in sorted(self._stages.items())),
        )

    def _stage(self, plan: StagePlan, steps: list[BuiltStep]) -> BuiltStage:
        match plan.base:
            case ScratchBase():
                base = "scratch"
            case StageBase(index=index):
                base = f"stage {self._stages[index][0].title}"
            case ImageBase(reference=reference):
                base = base_name(reference.familiar, str(plan.platform), str(self._graph.platform))
            case ContextBase(name=name):
                base = f"context {name}"
        return BuiltStage(name=plan.title, base=base, steps=tuple(steps))
