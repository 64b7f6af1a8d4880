"""Carries a stage's state from instruction to instruction: `fold` is the meaning of a Dockerfile, and it is pure.

``fold(state, instruction) -> (state, step)``. The state is the image config so far and the variables; the step is what must be done
for this instruction, with everything expanded. Nothing here looks at files, bases or the cache.

Source of the rules: BuildKit's ``frontend/dockerfile/dockerfile2llb/convert.go`` and the Dockerfile reference. Easy to get wrong:
all values of one ENV see the old variables; ENV beats ARG of the same name; ENTRYPOINT clears an inherited CMD but not one
of this stage; a stage's ARG without a default takes the value from before the first FROM.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from contain.build.steps import CopyStep, MetadataStep, RunStep, Step, WorkdirStep
from contain.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    ScriptFile,
    Shell,
    ShellForm,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from contain.dockerfile.literals import parse_chmod, parse_port_spec, parse_signal
from contain.dockerfile.words import expand, expand_heredoc, split_words
from contain.errors import InternalError, NotSupported, UsageError
from contain.oci import Healthcheck as HealthcheckConfig
from contain.oci import ImageConfig
from contain.values import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
_SOON = "it is understood, and not carried out yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """``config``: the image so far (layers and history are the builder's). ``arguments``: the stage's ARGs, None where unset.

    ``given``: ``--build-arg``. ``global_arguments``: ARGs before the first FROM, and the platform's. ``sets_command``: CMD was
    set in this stage.
    """

    config: ImageConfig
    given: Mapping[str, str]
    global_arguments: Mapping[str, str | None]
    arguments: Mapping[str, str | None]
    escape: str = "\\"
    sets_command: bool = False

    def lookup(self, name: str) -> str | None:
        """A variable as instructions see it: ENV first, then ARG."""
        for known, value in self.config.environment:
            if known == name:
                return value
        return self.arguments.get(name)

    @property
    def shell(self) -> tuple[str, ...]:
        """What shell forms are given to."""
        return self.config.shell or DEFAULT_SHELL

    @property
    def working_directory(self) -> str:
        """Where relative paths start."""
        return self.config.working_directory or "/"

    @property
    def set_arguments(self) -> tuple[tuple[str, str], ...]:
        """The ARGs that have a value, in order of declaration."""
        return tuple((name, value) for name, value in self.arguments.items() if value is not None)


def begin_stage(
    config: ImageConfig,
    *,
    given: Mapping[str, str],
    global_arguments: Mapping[str, str | None],
    arguments: Mapping[str, str | None] | None = None,
    escape: str = "\\",
) -> StageState:
    """The state right after FROM. ``config`` is the base's; its ONBUILD triggers are the caller's to fold next, and not inherited.

    ``arguments``: those of the stage that this one is built FROM.
    """
    if not any(name == "PATH" for name, _ in config.environment):
        config = replace(config, environment=(*config.environment, ("PATH", DEFAULT_PATH)))
    return StageState(
        config=replace(config, on_build=()),
        given=given,
        global_arguments=global_arguments,
        arguments=MappingProxyType(dict(arguments or {})),
        escape=escape,
    )


def fold(state: StageState, instruction: Instruction) -> tuple[StageState, Step]:
    """One instruction's effect. Raises `UsageError` and `NotSupported` that point at the instruction."""
    refuse_unsupported(instruction)
    handler = _HANDLERS.get(type(instruction))
    if handler is None:
        raise InternalError(f"no rule for {instruction.keyword}")
    try:
        return handler(state, instruction)
    except UsageError as error:
        if error.span is None:
            error.span = instruction.span
        raise


def refuse_unsupported(instruction: Instruction) -> None:
    """Raise `NotSupported` for what the grammar allows and this builder does not carry out."""

    def refuse(what: str, part: str, remedy: str = _SOON) -> NotSupported:
        return NotSupported(
            f"{instruction.keyword} {what} is not supported yet",
            code="not-supported",
            span=instruction.span_of(part),
            remedy=remedy,
        )

    if isinstance(instruction, OnBuild):
        refuse_unsupported(instruction.instruction)
    elif isinstance(instruction, Run):
        if instruction.mounts:
            raise refuse("--mount", "--mount")
        if instruction.security != "sandbox":
            raise refuse(f"--security={instruction.security}", "--security")
        if instruction.devices:
            raise refuse("--device", "--device")
    elif isinstance(instruction, Copy | Add):
        if instruction.exclude:
            raise refuse("--exclude", "--exclude", "name what is to be copied, or use .dockerignore")
        if isinstance(instruction, Copy) and instruction.parents:
            raise refuse("--parents", "--parents", "copy the directories one by one")
        if isinstance(instruction, Add):
            if instruction.checksum is not None:
                raise refuse("--checksum", "--checksum")
            if instruction.keep_git_dir is not None:
                raise refuse("--keep-git-dir", "--keep-git-dir")
            if instruction.unpack is not None:
                raise refuse("--unpack", "--unpack")
            for source in instruction.sources:
                _refuse_remote(instruction, source, source)


def _refuse_remote(instruction: Add, source: str, part: str) -> None:
    remote = source.startswith(("http://", "https://", "ftp://", "git://", "ssh://", "git@"))
    if remote:
        raise NotSupported(
            f"ADD of a URL or a git repository is not supported yet: {source}",
            code="not-supported",
            span=instruction.span_of(part),
            remedy="fetch it in a RUN, or before the build",
        )


def _expand(state: StageState, instruction: Instruction, word: str) -> str:
    return expand(word, state.lookup, escape=state.escape, span=instruction.span_of(word))


def _with(state: StageState, instruction: Instruction, created_by: str, config: ImageConfig) -> tuple[StageState, Step]:
    return replace(state, config=config), MetadataStep(instruction=instruction, created_by=created_by)


# -- variables ------------------------------------------------------------------------------------------------------------------


def declare_argument(
    name: str, default: str | None, *, given: Mapping[str, str], inherited: Mapping[str, str | None], before: str | None
) -> str | None:
    """An ARG's value: the build argument, else its own default, else the global one, else what it had before."""
    if name in given:
        return given[name]
    if default is not None:
        return default
    value = inherited.get(name)
    return before if value is None else value


def _arg(state: StageState, instruction: Arg) -> tuple[StageState, Step]:
    shown = []
    for declaration in instruction.declarations:
        name = _expand(state, instruction, declaration.name)
        default = None if declaration.default is None else _expand(state, instruction, declaration.default)
        value = declare_argument(
            name, default, given=state.given, inherited=state.global_arguments, before=state.arguments.get(name)
        )
        state = replace(state, arguments=MappingProxyType({**state.arguments, name: value}))
        shown.append(name if value is None else f"{name}={value}")
    return state, MetadataStep(instruction=instruction, created_by="ARG " + " ".join(shown))


def _env(state: StageState, instruction: Env) -> tuple[StageState, Step]:
    values = [(_expand(state, instruction, pair.name), _expand(state, instruction, pair.value)) for pair in instruction.pairs]
    environment = dict(state.config.environment)
    environment.update(values)
    shown = "ENV " + " ".join(f"{name}={value}" for name, value in values)
    return _with(state, instruction, shown, replace(state.config, environment=tuple(environment.items())))


def _label(state: StageState, instruction: Label) -> tuple[StageState, Step]:
    values = [(_expand(state, instruction, pair.name), _expand(state, instruction, pair.value)) for pair in instruction.pairs]
    labels = MappingProxyType({**state.config.labels, **dict(values)})
    shown = "LABEL " + " ".join(f"{name}={value}" for name, value in values)
    return _with(state, instruction, shown, replace(state.config, labels=labels))


# -- what a container starts with -------------------------------------------------------------------------------------------------


def command_arguments(command: Command, shell: tuple[str, ...]) -> tuple[str, ...]:
    """A command as it is executed."""
    return command.arguments if isinstance(command, ExecForm) else (*shell, command.text)


def _json(arguments: tuple[str, ...]) -> str:
    return json.dumps(list(arguments), ensure_ascii=False)


def _cmd(state: StageState, instruction: Cmd) -> tuple[StageState, Step]:
    arguments = command_arguments(instruction.command, state.shell)
    state = replace(state, sets_command=True)
    return _with(state, instruction, f"CMD {_json(arguments)}", replace(state.config, command=arguments))


def _entrypoint(state: StageState, instruction: Entrypoint) -> tuple[StageState, Step]:
    arguments = command_arguments(instruction.command, state.shell)
    command = state.config.command if state.sets_command else None
    config = replace(state.config, entrypoint=arguments or None, command=command)
    return _with(state, instruction, f"ENTRYPOINT {_json(arguments)}", config)


def _shell(state: StageState, instruction: Shell) -> tuple[StageState, Step]:
    shown = f"SHELL {_json(instruction.arguments)}"
    return _with(state, instruction, shown, replace(state.config, shell=instruction.arguments))


def _user(state: StageState, instruction: User) -> tuple[StageState, Step]:
    user = _expand(state, instruction, instruction.user)
    return _with(state, instruction, f"USER {user}", replace(state.config, user=user))


def _expose(state: StageState, instruction: Expose) -> tuple[StageState, Step]:
    ports = set(state.config.exposed_ports)
    shown: list[str] = []
    for written in instruction.ports:
        for word in split_words(written, state.lookup, escape=state.escape, span=instruction.span_of(written)):
            ports.update(parse_port_spec(word, span=instruction.span_of(written)).ports)
            shown.append(word)
    return _with(state, instruction, "EXPOSE " + " ".join(shown), replace(state.config, exposed_ports=tuple(sorted(ports))))


def _volume(state: StageState, instruction: Volume) -> tuple[StageState, Step]:
    paths = [_expand(state, instruction, path) for path in instruction.paths]
    if not all(paths):
        raise UsageError("a path of VOLUME is empty", code="bad-volume", span=instruction.span)
    volumes = tuple(sorted({*state.config.volumes, *paths}))
    return _with(state, instruction, f"VOLUME {_json(tuple(paths))}", replace(state.config, volumes=volumes))


def _stop_signal(state: StageState, instruction: StopSignal) -> tuple[StageState, Step]:
    text = _expand(state, instruction, instruction.signal)
    parse_signal(text, span=instruction.span_of(instruction.signal))
    return _with(state, instruction, f"STOPSIGNAL {text}", replace(state.config, stop_signal=text))


def _healthcheck(state: StageState, instruction: Healthcheck) -> tuple[StageState, Step]:
    check = HealthcheckConfig(
        test=instruction.test,
        interval_nanoseconds=instruction.interval_nanoseconds,
        timeout_nanoseconds=instruction.timeout_nanoseconds,
        start_period_nanoseconds=instruction.start_period_nanoseconds,
        start_interval_nanoseconds=instruction.start_interval_nanoseconds,
        retries=instruction.retries,
    )
    return _with(state, instruction, instruction.text, replace(state.config, healthcheck=check))


def _maintainer(state: StageState, instruction: Maintainer) -> tuple[StageState, Step]:
    return _with(state, instruction, f"MAINTAINER {instruction.author}", replace(state.config, author=instruction.author))


def _on_build(state: StageState, instruction: OnBuild) -> tuple[StageState, Step]:
    triggers = (*state.config.on_build, instruction.trigger)
    return _with(state, instruction, f"ONBUILD {instruction.trigger}", replace(state.config, on_build=triggers))


# -- what makes layers ----------------------------------------------------------------------------------------------------------


def absolute_path(working_directory: str, path: str) -> str:
    """``path`` seen from the working directory, cleaned; a trailing slash (or ``.``) stays as a trailing slash."""
    directory = path.endswith(("/", "/.", "/..")) or path in ("", ".", "..")
    joined = posixpath.normpath(posixpath.join("/", working_directory, path))
    joined = "/" + joined.lstrip("/")
    return joined + "/" if directory and joined != "/" else joined


def _workdir(state: StageState, instruction: Workdir) -> tuple[StageState, Step]:
    path = _expand(state, instruction, instruction.path)
    if not path:
        raise UsageError("the path of WORKDIR is empty", code="bad-workdir", span=instruction.span_of(instruction.path))
    path = absolute_path(state.working_directory, path).rstrip("/") or "/"
    state = replace(state, config=replace(state.config, working_directory=path))
    return state, WorkdirStep(instruction=instruction, created_by=f"WORKDIR {path}", path=path, user=state.config.user)


def _run(state: StageState, instruction: Run) -> tuple[StageState, Step]:
    program = instruction.program
    script = program if isinstance(program, ScriptFile) else None
    if isinstance(program, ScriptFile):
        arguments: tuple[str, ...] = (program.path,)
        shown = program.body
    else:
        arguments = command_arguments(program, state.shell)
        shown = " ".join(arguments) if isinstance(program, ShellForm) else shlex.join(arguments)
    if not arguments:
        raise UsageError("RUN has no command", code="bad-instruction", span=instruction.span)
    declared = state.set_arguments
    environment = dict(declared)
    environment.update(state.config.environment)
    prefix = f"|{len(declared)} " + " ".join(f"{name}={value}" for name, value in declared) + " " if declared else ""
    return state, RunStep(
        instruction=instruction,
        created_by=f"RUN {prefix}{shown}",
        arguments=arguments,
        script=script,
        environment=tuple(environment.items()),
        network=instruction.network,
        user=state.config.user,
        working_directory=state.working_directory,
    )


def _copy(state: StageState, instruction: Copy | Add) -> tuple[StageState, Step]:
    sources = tuple(_expand(state, instruction, source) for source in instruction.sources)
    if isinstance(instruction, Add):
        for source, written in zip(sources, instruction.sources, strict=True):
            _refuse_remote(instruction, source, written)
    destination = absolute_path(state.working_directory, _expand(state, instruction, instruction.destination))
    if len(sources) + len(instruction.heredocs) > 1 and not destination.endswith("/"):
        raise UsageError(
            f"{instruction.keyword} with more than one source needs a directory as destination",
            code="copy-needs-directory",
            span=instruction.span_of(instruction.destination),
            remedy=f"end it with a slash: {instruction.destination}/",
        )
    chown = None if instruction.chown is None else _expand(state, instruction, instruction.chown)
    chmod = None if instruction.chmod is None else _expand(state, instruction, instruction.chmod)
    documents = tuple(
        (each.name, expand_heredoc(each.body, state.lookup, span=instruction.span) if each.expand else each.body)
        for each in instruction.heredocs
    )
    flags = [
        f"--{name}={value}"
        for name, value in (
            ("from", instruction.from_stage if isinstance(instruction, Copy) else None),
            ("chown", chown),
            ("chmod", chmod),
        )
        if value
    ]
    words = [*flags, *sources, *(f"<<{name}" for name, _ in documents), destination]
    return state, CopyStep(
        instruction=instruction,
        created_by=f"{instruction.keyword} {' '.join(words)}",
        sources=sources,
        documents=documents,
        destination=destination,
        source_name=instruction.from_stage if isinstance(instruction, Copy) else None,
        chown=chown,
        chmod=chmod,
        mode=None if chmod is None else parse_chmod(chmod, span=instruction.span_of("--chmod")),
        unpack=isinstance(instruction, Add),
    )


_HANDLERS: dict[type[Instruction], Callable[[StageState, Any], tuple[StageState, Step]]] = {
    Add: _copy,
    Arg: _arg,
    Cmd: _cmd,
    Copy: _copy,
    Entrypoint: _entrypoint,
    Env: _env,
    Expose: _expose,
    Healthcheck: _healthcheck,
    Label: _label,
    Maintainer: _maintainer,
    OnBuild: _on_build,
    Run: _run,
    Shell: _shell,
    StopSignal: _stop_signal,
    User: _user,
    Volume: _volume,
    Workdir: _workdir,
}
