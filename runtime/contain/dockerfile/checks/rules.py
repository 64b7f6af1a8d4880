"""What a build check is, and what it is given: values only.

A rule is data with one pure function; `contain.dockerfile.checks.table` is the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.dockerfile.instructions import Dockerfile, Instruction
from contain.dockerfile.patterns import IgnorePatterns
from contain.errors import SourceSpan
from contain.values import dataclass, field

if TYPE_CHECKING:
    from contain.dockerfile.checks.scopes import InstructionScope, StageScope
    from contain.dockerfile.checks.scripts import RunScript


class Severity(Enum):
    """How much a finding matters."""

    WARNING = "warning"
    """Shown by every build; makes ``contain build --check`` exit with 1, and the build fail if the file says ``error=true``."""
    NOTE = "note"
    """Shown by ``contain build --check`` only; changes no exit status."""


class Group(Enum):
    """Where a rule comes from."""

    BUILDKIT = "buildkit"
    """BuildKit has a rule of this name, which finds the same."""
    REPRODUCIBILITY = "reproducibility"
    """Contain's own: what makes two builds of one file differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFacts:
    """What a base image brings along, where it is known. ``platform``: ``os/architecture[/variant]``."""

    environment: Mapping[str, str]
    platform: str
    shell: tuple[str, ...] = ()


BaseFinder = Callable[[str], BaseFacts | None]
"""What is known of an image by its name; None where it is not at hand."""


def _no_arguments() -> Mapping[str, str]:
    return MappingProxyType({})


def _no_base(_name: str) -> BaseFacts | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the text alone does not say. The platforms are those of the build and of the machine that builds."""

    build_args: Mapping[str, str] = field(default_factory=_no_arguments)
    ignore: IgnorePatterns = field(default_factory=IgnorePatterns)
    platform: str = "linux/amd64"
    build_platform: str = "linux/amd64"
    target: str | None = None
    find_base: BaseFinder = _no_base


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a check looks at: the file, and for each stage what its instructions see."""

    dockerfile: Dockerfile
    surroundings: Surroundings
    scopes: tuple[StageScope, ...]
    global_values: Mapping[str, str | None]
    """Of the ARGs before the first FROM and the predefined ones, with the build arguments; None: declared without a value."""
    default_values: Mapping[str, str | None]
    """The same without the build arguments."""
    scripts: Callable[[], tuple[tuple[InstructionScope, RunScript], ...]]
    """What every RUN runs; read once, when a rule first asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One place that a rule objects to. ``instructions``: those whose comments may waive the rule."""

    message: str
    span: SourceSpan
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One check. ``description`` says what it wants, ``remedy`` what to write instead. ``experimental``: only if asked for."""

    name: str
    group: Group
    severity: Severity
    description: str
    remedy: str
    check: Callable[[Subject], Iterable[Found]]
    experimental: bool = False

    @property
    def documentation(self) -> str:
        """Where in the project's documentation it is explained."""
        return f"docs/checks.md#{self.name.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule found."""

    rule: Rule
    message: str
    span: SourceSpan


def at(instruction: Instruction, message: str, *, span: SourceSpan | None = None) -> Found:
    """An objection to one instruction."""
    return Found(message=message, span=span or instruction.span, instructions=(instruction,))
