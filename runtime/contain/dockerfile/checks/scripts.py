"""Reads the commands out of what RUN runs: enough of the shell's language to know which programs are started with which words.

Pure, and never raises: text that is no shell script gives commands that no rule knows. Not a shell: variables stay as they are
written (`Word.dynamic`), control flow is left out, every command that stands in the text counts as run. Source of the language:
POSIX, Shell Command Language, sections 2.2 to 2.10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from contain.dockerfile.checks.scopes import InstructionScope, StageScope
from contain.dockerfile.instructions import ExecForm, Instruction, OnBuild, Run, ScriptFile, Shell, ShellForm
from contain.errors import SourceSpan
from contain.values import dataclass

SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
_RESERVED = frozenset({"if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "time", "esac"})
_LISTS = frozenset({"for", "case", "select", "function"})
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_WRAPPERS = {
    "sudo": frozenset("ugpCDRTh"),
    "doas": frozenset("uC"),
    "env": frozenset("uCS"),
    "nice": frozenset("n"),
    "ionice": frozenset("cnp"),
    "timeout": frozenset("ks"),
    "exec": frozenset("a"),
    "command": frozenset(),
    "builtin": frozenset(),
    "nohup": frozenset(),
    "eatmydata": frozenset(),
    "setarch": frozenset(),
    "busybox": frozenset(),
}
"""Programs that start the program named behind them, with the letters of their options that take a value."""

_WITH_OPERAND = frozenset({"timeout"})
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word without its quotes. ``dynamic``: variables or commands are replaced in it when it is run."""

    text: str
    start: int
    end: int
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellCommand:
    """One simple command. ``program``: its name without directories; "" if only a variable knows it.

    ``pipe``: commands of one pipeline have one number, and ``position`` counts them. ``place``: from its first word to its last.
    ``targets``: files that its output is redirected to. ``inside``: the program among whose words it stands as a substitution.
    """

    program: str
    arguments: tuple[Word, ...]
    assignments: tuple[Word, ...]
    pipe: int
    position: int
    place: Callable[[], SourceSpan]
    targets: tuple[str, ...] = ()
    inside: str = ""

    @property
    def span(self) -> SourceSpan:
        """Where it stands; made when it is asked for, since few commands are ever pointed at."""
        return self.place()

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments as text."""
        return tuple(word.text for word in self.arguments)

    @property
    def operands(self) -> tuple[Word, ...]:
        """The arguments that are no options. Values of options that stand apart from them are among these."""
        return tuple(word for word in self.arguments if not word.text.startswith("-"))

    def has_option(self, *names: str) -> bool:
        """Whether one of the options is given: ``--long``, ``--long=value``, ``-s`` alone or with other letters."""
        for word in self.words:
            for name in names:
                if word == name or (name.startswith("--") and word.startswith(name + "=")):
                    return True
                if len(name) == 2 and word[:1] == "-" and word[1:2] not in ("", "-") and name[1] in word[1:].partition("=")[0]:
                    return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScript:
    """What one RUN runs. ``instruction``: the RUN itself, or the ONBUILD that it stands in."""

    instruction: Instruction
    run: Run
    commands: tuple[ShellCommand, ...]

    def behind(self) -> Callable[[ShellCommand], list[ShellCommand]]:
        """What gives the commands that read, directly or not, what a command of this script writes into its pipeline."""
        pipelines: dict[int, list[ShellCommand]] = {}
        for each in self.commands:
            pipelines.setdefault(each.pipe, []).append(each)
        return lambda command: [each for each in pipelines[command.pipe] if each.position > command.position]


def read_scripts(scopes: Iterable[StageScope]) -> tuple[tuple[InstructionScope, RunScript], ...]:
    """Every RUN of every stage, with what it sees."""
    found: list[tuple[InstructionScope, RunScript]] = []
    for scope in scopes:
        shell = scope.facts.shell if scope.facts is not None else ()
        for step in scope.steps:
            if isinstance(step.instruction, Shell):
                shell = step.instruction.arguments
            script = read_run(step.instruction, shell=shell)
            if script is not None:
                found.append((step, script))
    return tuple(found)


def read_run(instruction: Instruction, *, shell: tuple[str, ...] = ()) -> RunScript | None:
    """The commands of a RUN, or of the RUN in an ONBUILD; None for everything else, and for scripts in another language."""
    run = instruction.instruction if isinstance(instruction, OnBuild) else instruction
    if not isinstance(run, Run):
        return None
    program = run.program
    reader = _Reader(instruction)
    if isinstance(run.command, ExecForm):
        reader.read_words([Word(text=text, start=-1, end=-1) for text in run.command.arguments], depth=0)
    elif shell and _base_name(shell[0]) not in SHELLS:
        return None
    elif isinstance(program, ScriptFile):
        first = program.body.split("\n", 1)[0]
        if not any(_base_name(word) in SHELLS for word in first.removeprefix("#!").split()):
            return None
        reader.read_heredoc(program.body)
    elif run.heredocs and isinstance(program, ShellForm) and program.text == run.heredocs[0].body:
        reader.read_heredoc(program.text)
    else:
        reader.read_line(run.command.text)
        if any(command.program in SHELLS and not command.operands for command in reader.commands):
            for heredoc in run.heredocs:
                reader.read_heredoc(heredoc.body)
    return RunScript(instruction=instruction, run=run, commands=tuple(reader.commands))


def _base_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


class _Reader:
    """Collects the commands of one instruction."""

    def __init__(self, instruction: Instruction) -> None:
        self._instruction = instruction
        self.commands: list[ShellCommand] = []
        self._pipes = 0
        self._offset: int | None = None  # of the script in the logical line
        self._first_line = 0  # of the script, if it is a heredoc's body
        self._text = ""

    def read_line(self, text: str) -> None:
        line = self._instruction.line.text
        self._offset = len(line) - len(text) if line.endswith(text) else None
        self._read(text, depth=0, inside="")

    def read_heredoc(self, body: str) -> None:
        span = self._instruction.span
        run = self._instruction.instruction if isinstance(self._instruction, OnBuild) else self._instruction
        lines = sum(heredoc.content.count("\n") + 1 for heredoc in run.heredocs)
        self._first_line, self._text = span.end_line - lines + 1, body
        self._read(body, depth=0, inside="")
        self._first_line = 0

    def read_words(self, words: list[Word], *, depth: int, inside: str = "") -> None:
        """The words of a command that no shell reads."""
        self._pipes += 1
        self._add(words, pipe=self._pipes, position=0, targets=(), inside=inside, depth=depth)

    def _span(self, start: int, end: int, first_line: int, script: str, offset: int | None) -> SourceSpan:
        """``first_line``: of the heredoc's body ``script``, or 0. ``offset``: of the script in the logical line, if it is there."""
        line = self._instruction.line
        if start < 0 or (not first_line and offset is None):
            return self._instruction.span
        if first_line:
            before = script[:start]
            number = first_line + before.count("\n")
            column = start - (before.rfind("\n") + 1)
            text = script[start - column :].split("\n", 1)[0]
            length = max(1, min(end - start, len(text) - column))
            return SourceSpan(file=line.file, line=number, end_line=number, column=column + 1, length=length, text=text)
        return line.span((offset or 0) + start, (offset or 0) + end)

    def _read(self, text: str, *, depth: int, inside: str, base: int = 0, flat: bool = False) -> None:
        """``base``: where ``text`` stands in the script; ``flat``: all of it counts as standing there (it was quoted)."""
        self._pipes += 1
        pipe, position = self._pipes, 0
        words: list[Word] = []
        targets: list[str] = []
        redirects = False

        def finish(*, piped: bool) -> None:
            nonlocal pipe, position, redirects
            self._add(words, pipe=pipe, position=position, targets=tuple(targets), inside=inside, depth=depth)
            words.clear()
            targets.clear()
            redirects = False
            if piped:
                position += 1
            else:
                self._pipes += 1
                pipe, position = self._pipes, 0

        for kind, value, start, end, dynamic, nested in _tokens(text):
            for inner in nested if depth < _MAX_DEPTH else ():
                owner = _base_name(words[0].text) if words else ""
                outer_pipes = self._pipes
                self._read(inner[0], depth=depth + 1, inside=owner or "=", base=base if flat else base + inner[1], flat=flat)
                self._pipes = max(self._pipes, outer_pipes) + 1
            if kind == "operator":
                finish(piped=value in ("|", "|&"))
            elif kind == "redirect":
                redirects = True
            elif redirects:
                targets.append(value)
                redirects = False
            else:
                place = (base, base + 1) if flat else (base + start, base + end)
                words.append(Word(text=value, start=place[0], end=place[1], dynamic=dynamic))
        finish(piped=False)

    def _add(self, words: list[Word], *, pipe: int, position: int, targets: tuple[str, ...], inside: str, depth: int) -> None:
        rest = list(words)
        while rest and rest[0].text in _RESERVED:
            rest.pop(0)
        if not rest or rest[0].text in _LISTS:
            return
        assignments = []
        while rest and _ASSIGNMENT.match(rest[0].text):
            assignments.append(rest.pop(0))
        rest = _without_wrappers(rest, assignments)
        place = partial(self._span, words[0].start, max(word.end for word in words), self._first_line, self._text, self._offset)
        program = "" if not rest or rest[0].text.startswith("$") else _base_name(rest[0].text)
        self.commands.append(
            ShellCommand(
                program=program,
                arguments=tuple(rest[1:]),
                assignments=tuple(assignments),
                pipe=pipe,
                position=position,
                place=place,
                targets=targets,
                inside=inside,
            )
        )
        if program in SHELLS and depth < _MAX_DEPTH:
            script = _script_of(rest[1:])
            if script is not None:
                start = max(script.start, 0)
                self._read(script.text, depth=depth + 1, inside="", base=start, flat=True)


def _without_wrappers(words: list[Word], assignments: list[Word]) -> list[Word]:
    while words and _base_name(words[0].text) in _WRAPPERS:
        name = _base_name(words[0].text)
        rest = words[1:]
        while rest and (rest[0].text.startswith("-") or _ASSIGNMENT.match(rest[0].text)):
            option = rest.pop(0)
            if _ASSIGNMENT.match(option.text):
                assignments.append(option)
            elif len(option.text) == 2 and option.text[1] in _WRAPPERS[name] and rest:
                rest.pop(0)
        if name in _WITH_OPERAND and rest:
            rest.pop(0)
        if not rest:
            return words
        words = rest
    return words


def _script_of(arguments: list[Word]) -> Word | None:
    """The text behind ``-c``, among a shell's arguments."""
    for index, word in enumerate(arguments):
        if re.fullmatch(r"-[a-zA-Z]*c", word.text):
            return next((each for each in arguments[index + 1 :] if not each.text.startswith("-")), None)
    return None


_Nested = tuple[tuple[str, int], ...]


def _tokens(text: str) -> Iterator[tuple[str, str, int, int, bool, _Nested]]:
    """Words, operators and redirections: kind, text, start, end, whether it is dynamic, and the scripts substituted in it."""
    position, length = 0, len(text)
    while position < length:
        character = text[position]
        if character in " \t\r\f\v":
            position += 1
        elif character == "#":
            end = text.find("\n", position)
            position = length if end < 0 else end
        elif character == "\\" and text.startswith("\\\n", position):
            position += 2
        elif character in "\n;&|()":
            if text.startswith("&>", position):
                yield "redirect", "&>", position, position + 2, False, ()
                position += 2
                continue
            size = 2 if text[position : position + 2] in ("&&", "||", ";;", "|&") else 1
            yield "operator", text[position : position + size], position, position + size, False, ()
            position += size
        elif character in "<>" and not text.startswith(("<(", ">("), position):
            end = position
            while end < length and text[end] in "<>&|-":
                end += 1
            kind = "redirect" if character == ">" else "input"
            if end < length and text[end].isdigit() and text[end - 1] == "&":
                kind, end = "input", end + 1  # >&2 names no file
            elif character == "<":
                while end < length and text[end] in " \t":
                    end += 1
                _, end, _, _ = _word(text, end)
            position = max(end, position + 1)
            if kind == "redirect":
                yield kind, ">", position - 1, position, False, ()
        else:
            value, end, dynamic, nested = _word(text, position)
            # A number right before a redirection is the descriptor that it is about.
            if not (value.isdigit() and end < length and text[end] in "<>"):
                yield "word", value, position, end, dynamic, nested
            position = max(end, position + 1)


def _word(text: str, position: int) -> tuple[str, int, bool, _Nested]:
    """The word that begins at ``position``: without quotes; where it ends; whether it is dynamic; the scripts in it."""
    value: list[str] = []
    nested: list[tuple[str, int]] = []
    dynamic = False
    quote = ""
    length = len(text)
    while position < length:
        character = text[position]
        if quote == "'":
            if character == "'":
                quote = ""
            else:
                value.append(character)
            position += 1
        elif character == "\\":
            value.append(text[position + 1 : position + 2].replace("\n", ""))
            position += 2
        elif character in "'\"" and not quote:
            quote = character
            position += 1
        elif character == quote:
            quote = ""
            position += 1
        elif text.startswith("$((", position):
            dynamic = True
            value.append("$((")
            position += 3
        elif text.startswith(("$(", "<(", ">("), position) and not (quote and character != "$"):
            end = _closing(text, position + 2)
            nested.append((text[position + 2 : end], position + 2))
            value.append(text[position : position + 1] + "()")
            dynamic = True
            position = end + 1
        elif character == "`":
            end = text.find("`", position + 1)
            end = length if end < 0 else end
            nested.append((text[position + 1 : end], position + 1))
            value.append("$()")
            dynamic = True
            position = end + 1
        elif text.startswith("${", position):
            end = text.find("}", position)
            end = length if end < 0 else end + 1
            value.append(text[position:end])
            dynamic = True
            position = end
        elif not quote and character in " \t\r\f\v\n;&|()<>":
            break
        else:
            dynamic = dynamic or character == "$"
            value.append(character)
            position += 1
    return "".join(value), min(position, length), dynamic, tuple(nested)


def _closing(text: str, position: int) -> int:
    """Where the parenthesis closes whose opening one stands before ``position``; the end of the text if it does not."""
    depth, quote = 1, ""
    while position < len(text):
        character = text[position]
        if character == "\\" and quote != "'":
            position += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if not depth:
                return position
        position += 1
    return len(text)
