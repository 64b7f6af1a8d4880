"""Decides what a Dockerfile means, instruction by instruction: text to `Dockerfile`, or one error that points into the text.

Checks everything that can be known without the values of variables, the base image and the build context: instructions, their
flags, the number and form of their arguments, their order. Any text gives a value or a `UsageError`, never another exception.
Source of the rules: BuildKit's ``frontend/dockerfile/instructions``. Stricter in four places, where BuildKit ignores what is
written: flags of ARG, STOPSIGNAL and HEALTHCHECK NONE are errors, RUN, CMD and ENTRYPOINT need an argument, and a heredoc of COPY
must be one of its sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from contain.dockerfile.heredocs import heredoc_word
from contain.dockerfile.instructions import (
    Add,
    Arg,
    ArgDeclaration,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Pair,
    Run,
    Shell,
    ShellForm,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from contain.dockerfile.literals import parse_interval_nanoseconds
from contain.dockerfile.mounts import parse_mount
from contain.dockerfile.suggestion import suggest
from contain.dockerfile.syntax import Lexer, Node, Word
from contain.dockerfile.words import GO_SPACE
from contain.errors import SourceSpan, UsageError

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_NO_TRIGGERS = frozenset({"ONBUILD", "FROM", "MAINTAINER"})


def parse_dockerfile(text: str, *, file: str = "Dockerfile") -> Dockerfile:
    """The file's stages and instructions. Raises `UsageError` with the place of the first mistake, and a remedy where there is one."""
    lexer = Lexer(text, file=file)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for node in lexer.nodes():
        instruction = _instruction(node)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise node.fail(
                f"the first instruction must be FROM, not {node.keyword}",
                code="missing-from",
                remedy="only ARG may stand before FROM; FROM scratch begins with an empty image",
            )
    if not stages:
        raise UsageError(
            f"{file} has no FROM", code="missing-from", remedy="add FROM and the name of an image", span=global_args[-1].span
        )
    return Dockerfile(
        file=file,
        directives=lexer.directives,
        global_args=tuple(global_args),
        stages=tuple(Stage(start=start, instructions=tuple(instructions)) for start, instructions in stages),
        source=text,
    )


def parse_trigger(text: str, *, file: str = "ONBUILD trigger") -> Instruction:
    """The instruction that a base image's configuration keeps for ``ONBUILD``. Its escape character is the backslash."""
    nodes = list(Lexer(text, file=file).nodes())
    if len(nodes) != 1:
        raise nodes[1].fail("an ONBUILD trigger must be one instruction", code="bad-onbuild")
    _check_trigger(nodes[0])
    return _instruction(nodes[0])


def render_dockerfile(dockerfile: Dockerfile) -> str:
    """Text that parses to an equal value: directives, one line per instruction, heredocs. Comments and continuations are gone."""
    directives = dockerfile.directives
    lines = [f"# syntax={directives.syntax}"] if directives.syntax else []
    if directives.escape != "\\":
        lines.append(f"# escape={directives.escape}")
    if directives.check:
        lines.append(f"# check={directives.check}")
    instructions: list[Instruction] = [*dockerfile.global_args]
    for stage in dockerfile.stages:
        instructions += [stage.start, *stage.instructions]
    for instruction in instructions:
        text, rest = instruction.text, instruction.source[len(instruction.text) :]
        # An escape character at the end would join the next line. A vertical tab behind it prevents that: only blanks and
        # tabs may follow a continuation, while every white space at an instruction's end is dropped.
        lines.append(text + ("\v" if text.endswith(directives.escape) else "") + rest)
    return "\n".join(lines) + "\n"


def _instruction(node: Node) -> Instruction:
    return _PARSERS[node.keyword](node)


# -- flags ------------------------------------------------------------------------------------------------------------------


class _Kind(Enum):
    SWITCH = "switch"
    TEXT = "text"
    TEXTS = "texts"


class _Flags:
    """The flags of one instruction, checked against those it knows."""

    def __init__(self, node: Node, known: dict[str, _Kind] | None = None) -> None:
        known = known or {}
        self._values: dict[str, list[str]] = {}
        self._words: dict[str, list[Word]] = {}
        self._node = node
        for word in node.flags:
            name, separator, value = word.text.removeprefix("--").partition("=")
            if name not in known:
                near = suggest(name, known)
                listed = ", ".join(f"--{each}" for each in known)
                remedy = (
                    f"did you mean --{near}?" if near else f"it knows {listed}" if known else f"{node.keyword} knows no flags"
                )
                raise node.fail(f"unknown flag --{name} of {node.keyword}", at=word, code="unknown-flag", remedy=remedy)
            if name in self._values and known[name] is not _Kind.TEXTS:
                raise node.fail(f"the flag --{name} is given twice", at=word, code="duplicate-flag")
            if known[name] is _Kind.SWITCH:
                if separator and value.lower() not in ("true", "false"):
                    raise node.fail(f"the flag --{name} is true or false, not {value!r}", at=word, code="bad-flag")
            elif not separator:
                raise node.fail(f"the flag --{name} needs a value", at=word, code="bad-flag", remedy=f"write --{name}=VALUE")
            self._values.setdefault(name, []).append(value.lower() if known[name] is _Kind.SWITCH else value)
            self._words.setdefault(name, []).append(word)

    def text(self, name: str) -> str | None:
        """The value; None where the flag is absent or empty, which is the same."""
        return self._values.get(name, [""])[0] or None

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def switch(self, name: str) -> bool | None:
        """None where the flag is absent."""
        return self._values[name][0] != "false" if name in self._values else None

    def word(self, name: str) -> Word | None:
        return self._words[name][0] if name in self._words else None

    def span(self, name: str, index: int = 0) -> SourceSpan:
        word = self._words[name][index]
        return self._node.line.span(word.start, word.end)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """The value, or the first choice where the flag is absent."""
        value = self.text(name)
        if value is None:
            return choices[0]
        if value not in choices:
            near = suggest(value, choices)
            remedy = f"did you mean {near}?" if near else "it is " + " or ".join(choices)
            raise self._node.fail(f"the flag --{name} cannot be {value!r}", at=self.word(name), code="bad-flag", remedy=remedy)
        return value


# -- arguments --------------------------------------------------------------------------------------------------------------


def _at_least_one(node: Node, remedy: str = "") -> None:
    if not node.arguments:
        raise node.fail(f"{node.keyword} needs an argument", remedy=remedy)


def _only(node: Node, remedy: str) -> str:
    """The argument of an instruction whose whole rest is one."""
    _at_least_one(node, remedy)
    return node.arguments[0].text


def _command(node: Node, arguments: tuple[Word, ...]) -> Command:
    if node.is_json:
        return ExecForm(arguments=tuple(word.text for word in arguments))
    return ShellForm(text=arguments[0].text)


def _pairs(node: Node) -> tuple[Pair, ...]:
    _Flags(node)
    _at_least_one(node, f"write {node.keyword} NAME=VALUE")
    words = node.arguments
    pairs = []
    for name, value, separator in zip(words[::3], words[1::3], words[2::3], strict=True):
        if not name.text:
            raise node.fail(f"a name of {node.keyword} is empty", at=name, remedy="write NAME=VALUE")
        pairs.append(Pair(name=name.text, value=value.text, legacy=not separator.text))
    return tuple(pairs)


def _from(node: Node) -> From:
    flags = _Flags(node, {"platform": _Kind.TEXT})
    words = node.arguments
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].text.lower() != "as"):
        remedy = "write FROM image, or FROM image AS name"
        raise node.fail(
            "FROM needs an image, and nothing else but AS and a name", at=words[1] if len(words) > 1 else None, remedy=remedy
        )
    name = words[2].text.lower() if len(words) == 3 else None
    if name is not None and not _STAGE_NAME.fullmatch(name):
        remedy = "it begins with a letter; letters, digits, '-', '_' and '.' follow"
        raise node.fail(f"{words[2].text!r} cannot be a stage's name", at=words[2], remedy=remedy, code="bad-stage-name")
    return From(text=node.text, line=node.line, base=words[0].text, name=name, platform=flags.text("platform"))


def _arg(node: Node) -> Arg:
    _Flags(node)
    _at_least_one(node, "write ARG NAME or ARG NAME=DEFAULT")
    declarations = []
    for word in node.arguments:
        name, separator, default = word.text.partition("=")
        if not name:
            raise node.fail("a name of ARG is empty", at=word, remedy="write ARG NAME=DEFAULT")
        declarations.append(ArgDeclaration(name=name, default=default if separator else None))
    return Arg(text=node.text, line=node.line, declarations=tuple(declarations))


def _env(node: Node) -> Env:
    return Env(text=node.text, line=node.line, pairs=_pairs(node))


def _label(node: Node) -> Label:
    return Label(text=node.text, line=node.line, pairs=_pairs(node))


def _run(node: Node) -> Run:
    flags = _Flags(node, {"mount": _Kind.TEXTS, "network": _Kind.TEXT, "security": _Kind.TEXT, "device": _Kind.TEXTS})
    _at_least_one(node, "write the command that is to run")
    return Run(
        text=node.text,
        line=node.line,
        heredocs=node.heredocs,
        command=_command(node, node.arguments),
        mounts=tuple(parse_mount(text, span=flags.span("mount", index)) for index, text in enumerate(flags.texts("mount"))),
        network=flags.choice("network", ("default", "none", "host")),
        security=flags.choice("security", ("sandbox", "insecure")),
        devices=flags.texts("device"),
    )


def _sources(node: Node) -> tuple[tuple[str, ...], str]:
    """The source paths and the destination of COPY or ADD. Heredocs among the sources are checked and left out."""
    words = node.arguments
    if len(words) < 2:
        remedy = "the last argument is the destination; name at least one source before it"
        raise node.fail(f"{node.keyword} needs a source and a destination", at=words[0] if words else None, remedy=remedy)
    paths = []
    pending = list(node.heredocs)
    for word in words[:-1]:
        if not _announces_heredoc(node, word):
            paths.append(word.text)
        elif pending:
            pending.pop(0)
        else:
            raise node.fail(
                f"the heredoc {word.text} has no lines",
                at=word,
                code="bad-heredoc",
                remedy="do the quotes of this line balance?",
            )
    if _announces_heredoc(node, words[-1]):
        raise node.fail(f"a heredoc cannot be the destination of {node.keyword}", at=words[-1], code="bad-heredoc")
    if pending:
        remedy = f"write <<{pending[0].name} without blanks, as an argument of its own"
        raise node.fail(f"the heredoc {pending[0].name!r} is not one of the sources", code="bad-heredoc", remedy=remedy)
    return tuple(paths), words[-1].text


def _announces_heredoc(node: Node, word: Word) -> bool:
    if node.is_json:
        return False
    try:
        return heredoc_word(word.text) is not None
    except UsageError as error:
        remedy = f"the name of a heredoc in {node.keyword} has no blanks, and its quotes balance"
        raise node.fail(f"{word.text} is no heredoc", at=word, code="bad-heredoc", remedy=remedy) from error


_TRANSFER_FLAGS = {"chown": _Kind.TEXT, "chmod": _Kind.TEXT, "link": _Kind.SWITCH, "exclude": _Kind.TEXTS}


def _copy(node: Node) -> Copy:
    flags = _Flags(node, {"from": _Kind.TEXT, **_TRANSFER_FLAGS, "parents": _Kind.SWITCH})
    sources, destination = _sources(node)
    from_stage = flags.text("from")
    # A lone "$" at the end is text, as everywhere.
    if from_stage and "$" in from_stage[:-1]:
        remedy = "give the image a stage of its own, FROM $IMAGE AS name, and write --from=name"
        raise node.fail("--from is not expanded", at=flags.word("from"), remedy=remedy, code="bad-flag")
    return Copy(
        text=node.text,
        line=node.line,
        heredocs=node.heredocs,
        sources=sources,
        destination=destination,
        from_stage=from_stage,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.switch("link")),
        parents=bool(flags.switch("parents")),
        exclude=flags.texts("exclude"),
    )


def _add(node: Node) -> Add:
    own = {"checksum": _Kind.TEXT, "keep-git-dir": _Kind.SWITCH, "unpack": _Kind.SWITCH}
    flags = _Flags(node, {**_TRANSFER_FLAGS, **own})
    sources, destination = _sources(node)
    return Add(
        text=node.text,
        line=node.line,
        heredocs=node.heredocs,
        sources=sources,
        destination=destination,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=bool(flags.switch("link")),
        exclude=flags.texts("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switch("unpack"),
    )


def _workdir(node: Node) -> Workdir:
    _Flags(node)
    return Workdir(text=node.text, line=node.line, path=_only(node, "write WORKDIR /path"))


def _user(node: Node) -> User:
    _Flags(node)
    return User(text=node.text, line=node.line, user=_only(node, "write USER name or USER name:group"))


def _expose(node: Node) -> Expose:
    _Flags(node)
    _at_least_one(node, "write EXPOSE 80 or EXPOSE 53/udp")
    return Expose(text=node.text, line=node.line, ports=tuple(sorted(word.text for word in node.arguments)))


def _volume(node: Node) -> Volume:
    _Flags(node)
    _at_least_one(node, "write VOLUME /path")
    paths = tuple(word.text.strip(GO_SPACE) for word in node.arguments)
    if not all(paths):
        raise node.fail("a path of VOLUME is empty", at=node.arguments[paths.index("")])
    return Volume(text=node.text, line=node.line, paths=paths)


def _cmd(node: Node) -> Cmd:
    _Flags(node)
    if not node.is_json:
        _at_least_one(node, "CMD [] clears the command")
    return Cmd(text=node.text, line=node.line, command=_command(node, node.arguments))


def _entrypoint(node: Node) -> Entrypoint:
    _Flags(node)
    if not node.is_json:
        _at_least_one(node, "ENTRYPOINT [] clears the entry point")
    return Entrypoint(text=node.text, line=node.line, command=_command(node, node.arguments))


def _shell(node: Node) -> Shell:
    _Flags(node)
    remedy = 'write SHELL ["/bin/sh", "-c"]'
    _at_least_one(node, remedy)
    if not node.is_json:
        raise node.fail("SHELL needs a JSON array of strings", at=node.arguments[0], code="bad-json-form", remedy=remedy)
    return Shell(text=node.text, line=node.line, arguments=tuple(word.text for word in node.arguments))


def _stopsignal(node: Node) -> StopSignal:
    _Flags(node)
    return StopSignal(text=node.text, line=node.line, signal=_only(node, "write STOPSIGNAL SIGTERM"))


def _healthcheck(node: Node) -> Healthcheck:
    _at_least_one(node, "write HEALTHCHECK CMD command, or HEALTHCHECK NONE")
    kind, rest = node.arguments[0], node.arguments[1:]
    if kind.text.upper() == "NONE":
        _Flags(node)
        if rest or node.is_json:
            raise node.fail("HEALTHCHECK NONE takes no arguments", at=rest[0] if rest else kind)
        return Healthcheck(text=node.text, line=node.line, command=None)
    durations = ("interval", "timeout", "start-period", "start-interval")
    flags = _Flags(node, {**dict.fromkeys(durations, _Kind.TEXT), "retries": _Kind.TEXT})
    if kind.text.upper() != "CMD":
        raise node.fail(
            f"HEALTHCHECK cannot be of the type {kind.text!r}",
            at=kind,
            remedy="write HEALTHCHECK CMD command, or HEALTHCHECK NONE",
        )
    if not rest:
        raise node.fail("HEALTHCHECK CMD needs a command", at=kind)
    interval, timeout, start_period, start_interval = (
        parse_interval_nanoseconds(value, span=flags.span(name)) if (value := flags.text(name)) else 0 for name in durations
    )
    retries = flags.text("retries") or "0"
    if not re.fullmatch(r"\+?[0-9]{1,10}", retries) or int(retries) >= 2**31:
        raise node.fail(
            f"--retries cannot be {retries!r}",
            at=flags.word("retries"),
            code="bad-flag",
            remedy="write a whole number, 0 or more",
        )
    return Healthcheck(
        text=node.text,
        line=node.line,
        command=_command(node, rest),
        interval_nanoseconds=interval,
        timeout_nanoseconds=timeout,
        start_period_nanoseconds=start_period,
        start_interval_nanoseconds=start_interval,
        retries=int(retries),
    )


def _check_trigger(node: Node) -> None:
    if node.keyword in _NO_TRIGGERS:
        raise node.fail(f"{node.keyword} cannot be the trigger of ONBUILD", code="bad-onbuild")


def _onbuild(node: Node) -> OnBuild:
    _Flags(node)
    if node.child is None:
        raise node.fail("ONBUILD needs an instruction", remedy="write ONBUILD RUN command")
    _check_trigger(node.child)
    return OnBuild(text=node.text, line=node.line, instruction=_instruction(node.child))


def _maintainer(node: Node) -> Maintainer:
    _Flags(node)
    return Maintainer(text=node.text, line=node.line, author=_only(node, 'write LABEL org.opencontainers.image.authors="name"'))


_PARSERS: dict[str, Callable[[Node], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
