"""What a RUN comes to, once the variables are known: a `RunStep`. Pure."""

from __future__ import annotations

import shlex

from contain.build.run.mounts import resolve_mounts
from contain.build.run.special_arguments import NOT_EXPORTED
from contain.build.state import StageState, command_arguments, not_supported
from contain.build.steps import RunStep, Step
from contain.dockerfile.instructions import Run, ScriptFile, ShellForm
from contain.errors import UsageError


def refuse_run(instruction: Run) -> None:
    """Raise `NotSupported` for what RUN may say and is not carried out."""
    if instruction.devices:
        raise not_supported(instruction, "--device", "--device")


def fold_run(state: StageState, instruction: Run) -> tuple[StageState, Step]:
    """The command with its variables: what is executed, and how history tells it."""
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
    declared = tuple((name, value) for name, value in state.set_arguments if name not in NOT_EXPORTED)
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
        security=instruction.security,
        mounts=resolve_mounts(state, instruction),
        user=state.config.user,
        working_directory=state.working_directory,
    )
