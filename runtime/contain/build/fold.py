"""Carries a stage's state from instruction to instruction: `fold` is the meaning of a Dockerfile, and it is pure.

``fold(state, instruction) -> (state, step)``. The state is the image config so far and the variables; the step is what must be done
for this instruction, with everything expanded. Nothing here looks at files, bases or the cache.

Source of the rules: BuildKit's ``frontend/dockerfile/dockerfile2llb/convert.go`` and the Dockerfile reference. Easy to get wrong:
all values of one ENV see the old variables; ENV beats ARG of the same name; ENTRYPOINT clears an inherited CMD but not one
of this stage; a stage's ARG without a default takes the value from before the first FROM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from contain.annotations import Any
from contain.build.copy.fold import fold_copy, refuse_copy
from contain.build.run.fold import fold_run, refuse_run
from contain.build.state import DEFAULT_PATH, WINDOWS, StageState, absolute_path, command_arguments, expand_word
from contain.build.steps import MetadataStep, Step, WorkdirStep
from contain.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from contain.dockerfile.literals import parse_port_spec, parse_signal
from contain.dockerfile.words import split_words
from contain.errors import InternalError, UsageError
from contain.oci import Healthcheck as HealthcheckConfig
from contain.oci import ImageConfig
from contain.values import replace


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
    if config.platform.os != WINDOWS and not any(name == "PATH" for name, _ in config.environment):
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
    if isinstance(instruction, OnBuild):
        refuse_unsupported(instruction.instruction)
    elif isinstance(instruction, Run):
        refuse_run(instruction)
    elif isinstance(instruction, Copy | Add):
        refuse_copy(instruction)


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
        name = expand_word(state, instruction, declaration.name)
        default = declaration.default
        if default is not None and name not in state.given:  # a default that is not needed is not looked at: it may be ${X:?no}
            default = expand_word(state, instruction, default)
        value = declare_argument(
            name, default, given=state.given, inherited=state.global_arguments, before=state.arguments.get(name)
        )
        state = replace(state, arguments=MappingProxyType({**state.arguments, name: value}))
        shown.append(name if value is None else f"{name}={value}")
    return state, MetadataStep(instruction=instruction, created_by="ARG " + " ".join(shown))


def _env(state: StageState, instruction: Env) -> tuple[StageState, Step]:
    values = [
        (expand_word(state, instruction, pair.name), expand_word(state, instruction, pair.value)) for pair in instruction.pairs
    ]
    environment = dict(state.config.environment)
    environment.update(values)
    shown = "ENV " + " ".join(f"{name}={value}" for name, value in values)
    return _with(state, instruction, shown, replace(state.config, environment=tuple(environment.items())))


def _label(state: StageState, instruction: Label) -> tuple[StageState, Step]:
    values = [
        (expand_word(state, instruction, pair.name), expand_word(state, instruction, pair.value)) for pair in instruction.pairs
    ]
    labels = MappingProxyType({**state.config.labels, **dict(values)})
    shown = "LABEL " + " ".join(f"{name}={value}" for name, value in values)
    return _with(state, instruction, shown, replace(state.config, labels=labels))


# -- what a container starts with -------------------------------------------------------------------------------------------------


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
    user = expand_word(state, instruction, instruction.user)
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
    paths = [expand_word(state, instruction, path) for path in instruction.paths]
    if not all(paths):
        raise UsageError("a path of VOLUME is empty", code="bad-volume", span=instruction.span)
    volumes = tuple(sorted({*state.config.volumes, *paths}))
    return _with(state, instruction, f"VOLUME {_json(tuple(paths))}", replace(state.config, volumes=volumes))


def _stop_signal(state: StageState, instruction: StopSignal) -> tuple[StageState, Step]:
    text = expand_word(state, instruction, instruction.signal)
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


def _workdir(state: StageState, instruction: Workdir) -> tuple[StageState, Step]:
    path = expand_word(state, instruction, instruction.path)
    if not path:
        raise UsageError("the path of WORKDIR is empty", code="bad-workdir", span=instruction.span_of(instruction.path))
    path = absolute_path(state.working_directory, path).rstrip("/") or "/"
    state = replace(state, config=replace(state.config, working_directory=path))
    return state, WorkdirStep(instruction=instruction, created_by=f"WORKDIR {path}", path=path, user=state.config.user)


_HANDLERS: dict[type[Instruction], Callable[[StageState, Any], tuple[StageState, Step]]] = {
    Add: fold_copy,
    Arg: _arg,
    Cmd: _cmd,
    Copy: fold_copy,
    Entrypoint: _entrypoint,
    Env: _env,
    Expose: _expose,
    Healthcheck: _healthcheck,
    Label: _label,
    Maintainer: _maintainer,
    OnBuild: _on_build,
    Run: fold_run,
    Shell: _shell,
    StopSignal: _stop_signal,
    User: _user,
    Volume: _volume,
    Workdir: _workdir,
}
