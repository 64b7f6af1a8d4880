"""What a Dockerfile says, as values: one frozen class per instruction, stages, the file.

Values stay as they are written: variables unexpanded, paths unresolved, names not looked up. What an instruction does is the
build's decision; the few properties here only combine what is written.
"""

from __future__ import annotations

from contain.annotations import ClassVar
from contain.dockerfile.heredocs import Heredoc, heredoc_word
from contain.dockerfile.mounts import MountFlag
from contain.dockerfile.syntax import Directives, LogicalLine
from contain.errors import SourceSpan, UsageError
from contain.values import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """What every instruction has. Two instructions are equal when they say the same, wherever they stand."""

    keyword: ClassVar[str] = ""

    text: str
    """As written, continuation lines joined, comments and heredoc bodies left out: for the history and the cache."""
    line: LogicalLine = field(compare=False, repr=False)
    heredocs: tuple[Heredoc, ...] = ()
    """In order. Only RUN, COPY and ADD have any, and ONBUILD of these."""

    @property
    def span(self) -> SourceSpan:
        """The instruction's place, heredoc bodies included."""
        return self.line.whole()

    @property
    def source(self) -> str:
        """``text`` with the heredoc bodies: parsing it gives the instruction again."""
        return "\n".join([self.text, *(heredoc.content + heredoc.name for heredoc in self.heredocs)])

    def span_of(self, part: str) -> SourceSpan:
        """Where ``part`` first stands in the instruction behind its keyword; the whole instruction if it does not stand there so."""
        start = self.line.text.find(part, len(self.keyword)) if part else -1
        return self.span if start < 0 else self.line.span(start, start + len(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellForm:
    """A command as text, for the shell that ``SHELL`` names."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecForm:
    """A command as its arguments, started without a shell and never expanded."""

    arguments: tuple[str, ...]


Command = ShellForm | ExecForm


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFile:
    """A heredoc that begins with ``#!``: to be written to ``path`` with mode 0755, readable only during the step, and executed."""

    path: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """``name=value`` of ENV and LABEL. ``legacy``: written ``name value``, up to the end of the line."""

    name: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgDeclaration:
    """One ``name`` or ``name=default`` of ARG; ``name=`` has the default "", which is not None."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """``FROM [--platform=P] base [AS name]``. The name is in lower case."""

    keyword = "FROM"
    base: str
    name: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """``ARG name[=default]...``"""

    keyword = "ARG"
    declarations: tuple[ArgDeclaration, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """``ENV name=value...``; all values see the variables as they were before the instruction."""

    keyword = "ENV"
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """``LABEL name=value...``"""

    keyword = "LABEL"
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """``RUN command`` with what is mounted and allowed while it runs."""

    keyword = "RUN"
    command: Command
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure
    devices: tuple[str, ...] = ()

    @property
    def program(self) -> ShellForm | ExecForm | ScriptFile:
        """What to start. Heredoc bodies become the script, the shell's own heredocs, or a file with its interpreter line.

        Source: BuildKit's ``dockerfile2llb.dispatchRun``. Variables in the bodies are the shell's to expand.
        """
        if isinstance(self.command, ExecForm) or not self.heredocs:
            return self.command
        if not _is_one_heredoc(self.command.text):
            return ShellForm(text="\n".join([self.command.text, *(each.content + each.name for each in self.heredocs)]))
        only = self.heredocs[0]
        if only.body.startswith("#!"):
            return ScriptFile(path=f"/dev/pipes/{only.name}", body=only.body)
        return ShellForm(text=only.body)


def _is_one_heredoc(text: str) -> bool:
    try:
        return heredoc_word(text) is not None
    except UsageError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transfer(Instruction):
    """What COPY and ADD have in common. ``heredocs`` are sources too: files named after their word."""

    sources: tuple[str, ...]
    destination: str
    chown: str | None = None
    chmod: str | None = None
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(_Transfer):
    """``COPY [flags] source... destination``"""

    keyword = "COPY"
    from_stage: str | None = None  # a stage's name or number, or an image
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(_Transfer):
    """``ADD [flags] source... destination``: also archives, URLs, git repositories."""

    keyword = "ADD"
    checksum: str | None = None
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """``WORKDIR path``, relative to the one before."""

    keyword = "WORKDIR"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """``USER user[:group]``"""

    keyword = "USER"
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """``EXPOSE port...``, sorted as text, each to be expanded, split into words, and read by `parse_port_spec`."""

    keyword = "EXPOSE"
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """``VOLUME path...``"""

    keyword = "VOLUME"
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """``CMD command``; ``CMD []`` has no arguments and clears it."""

    keyword = "CMD"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT command``; ``ENTRYPOINT []`` has no arguments and clears it."""

    keyword = "ENTRYPOINT"
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """``SHELL ["program", "argument"...]``"""

    keyword = "SHELL"
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """``STOPSIGNAL signal``, to be expanded and read by `parse_signal`."""

    keyword = "STOPSIGNAL"
    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK [flags] CMD command``, or ``HEALTHCHECK NONE`` with no command. 0 means the runtime's default."""

    keyword = "HEALTHCHECK"
    command: Command | None
    interval_nanoseconds: int = 0
    timeout_nanoseconds: int = 0
    start_period_nanoseconds: int = 0
    start_interval_nanoseconds: int = 0
    retries: int = 0

    @property
    def test(self) -> tuple[str, ...]:
        """The ``Test`` array of an image's configuration."""
        if self.command is None:
            return ("NONE",)
        if isinstance(self.command, ShellForm):
            return ("CMD-SHELL", self.command.text)
        return ("CMD", *self.command.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """``ONBUILD instruction``, carried out right after the FROM of a build that uses this image."""

    keyword = "ONBUILD"
    instruction: Instruction

    @property
    def trigger(self) -> str:
        """The text that an image's configuration keeps; `parse_trigger` reads it."""
        return self.instruction.source

    @property
    def source(self) -> str:
        """``text`` with the trigger's heredoc bodies."""
        return "\n".join([self.text, *(heredoc.content + heredoc.name for heredoc in self.instruction.heredocs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """``MAINTAINER name``: the image's author. Deprecated for a label, still common."""

    keyword = "MAINTAINER"
    author: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One FROM and the instructions up to the next."""

    start: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str | None:
        """In lower case; None for a stage without ``AS``."""
        return self.start.name

    @property
    def base(self) -> str:
        """What FROM names: an image, an earlier stage, ``scratch``; unexpanded."""
        return self.start.base

    @property
    def platform(self) -> str | None:
        """``--platform``, unexpanded."""
        return self.start.platform

    @property
    def span(self) -> SourceSpan:
        """Of the FROM."""
        return self.start.span


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A whole file. ``global_args`` stand before the first FROM and are seen by FROM only."""

    file: str
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    source: str = field(default="", compare=False, repr=False)
    """The whole text."""

    @property
    def escape(self) -> str:
        """The escape character: a backslash or a backquote."""
        return self.directives.escape

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Every name, in order: the candidates for `suggest`."""
        return tuple(stage.name for stage in self.stages if stage.name is not None)

    def index_of_stage(self, name: str, *, before: int | None = None, numbers: bool = True) -> int | None:
        """The stage that ``name`` means among the first ``before``, or None. Of several with one name, the last.

        ``numbers``: a stage's number counts as its name, as in ``--from=0`` and ``--target``; FROM knows names only.
        """
        end = len(self.stages) if before is None else min(before, len(self.stages))
        for index in range(end - 1, -1, -1):
            if self.stages[index].name == name.lower():
                return index
        if numbers and name.isascii() and name.isdigit() and len(name) < 10 and int(name) < end:
            return int(name)
        return None
