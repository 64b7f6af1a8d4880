"""A stage's state while its Dockerfile is folded: the image config so far and the variables. Values only."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from contain.dockerfile.instructions import Command, ExecForm, Instruction
from contain.dockerfile.words import expand
from contain.errors import NotSupported
from contain.oci import ImageConfig
from contain.values import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
WINDOWS = "windows"
WINDOWS_SHELL = ("cmd", "/S", "/C")


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
        return self.config.shell or (WINDOWS_SHELL if self.config.platform.os == WINDOWS else DEFAULT_SHELL)

    @property
    def working_directory(self) -> str:
        """Where relative paths start."""
        return self.config.working_directory or "/"

    @property
    def set_arguments(self) -> tuple[tuple[str, str], ...]:
        """The ARGs that have a value, in order of declaration."""
        return tuple((name, value) for name, value in self.arguments.items() if value is not None)


def expand_word(state: StageState, instruction: Instruction, word: str) -> str:
    """A word with the stage's variables put in; an error points at the word."""
    return expand(word, state.lookup, escape=state.escape, span=instruction.span_of(word))


def command_arguments(command: Command, shell: tuple[str, ...]) -> tuple[str, ...]:
    """A command as it is executed."""
    return command.arguments if isinstance(command, ExecForm) else (*shell, command.text)


def absolute_path(working_directory: str, path: str) -> str:
    """``path`` seen from the working directory, cleaned; a trailing slash (or ``.``) stays as a trailing slash."""
    directory = path.endswith(("/", "/.", "/..")) or path in ("", ".", "..")
    joined = posixpath.normpath(posixpath.join("/", working_directory, path))
    joined = "/" + joined.lstrip("/")
    return joined + "/" if directory and joined != "/" else joined


def not_supported(instruction: Instruction, what: str, part: str, remedy: str = "") -> NotSupported:
    """The error for what the grammar allows and this builder does not carry out."""
    return NotSupported(
        f"{instruction.keyword} {what} is not supported yet",
        code="not-supported",
        span=instruction.span_of(part),
        remedy=remedy or "it is understood, and not carried out yet",
    )
