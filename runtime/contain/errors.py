"""Every error that contain raises on purpose, grouped by what the reader can do about it.

An error carries a stable kebab-case ``code`` (a heading in ``docs/errors.md``), a one-line message, and optional context
and remedy. The command line prints ``str(error)``; nothing here prints or exits.
"""

from __future__ import annotations

import errno as errno_module
import os

from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpan:
    """Where in a file a piece of text stands. Lines and columns are 1-based; ``end_line`` is inclusive."""

    file: str
    line: int
    end_line: int
    column: int = 1
    length: int = 1
    text: str = ""  # the source line that ``line`` and ``column`` point into

    def render(self) -> str:
        """The place, the line, and a caret under the column."""
        where = f"{self.file}:{self.line}"
        if not self.text:
            return where
        number = str(self.line)
        # A tab above stays a tab below, so that the caret stands right whatever the terminal's tab stops are.
        indent = "".join("\t" if character == "\t" else " " for character in self.text[: self.column - 1])
        caret = indent + "^" * max(1, min(self.length, len(self.text) - self.column + 1))
        return f"{where}\n {number} | {self.text}\n {' ' * len(number)} | {caret}"


class ContainError(Exception):
    """Base of all expected failures. ``remedy`` says what to do next; ``span`` points into the user's file."""

    code = "contain-error"
    exit_status = 125

    def __init__(self, message: str, *, code: str | None = None, remedy: str = "", span: SourceSpan | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.span = span
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        parts = [self.message]
        if self.span is not None:
            parts.append(self.span.render())
        if self.remedy:
            parts.append(f"hint: {self.remedy}")
        return "\n".join(parts)


class UsageError(ContainError):
    """What the user wrote cannot be carried out as written: an option, a name, a Dockerfile."""

    code = "usage"


class NotFound(ContainError):
    """The thing named does not exist."""

    code = "not-found"


class Conflict(ContainError):
    """The request contradicts the present state: a name in use, a container still running."""

    code = "conflict"


class NotSupported(UsageError):
    """Known, valid, and not built yet. The message names the feature."""

    code = "not-supported"


class HostError(ContainError):
    """This machine cannot do what was asked. Names the call, the path, the errno, the likely cause and the remedy."""

    code = "host"

    def __init__(
        self, message: str, *, call: str = "", path: str = "", errno: int = 0, remedy: str = "", code: str | None = None
    ) -> None:
        self.call, self.path, self.errno = call, path, errno
        detail = " ".join(part for part in (call, path) if part)
        if errno:
            name = errno_module.errorcode.get(errno, str(errno))
            detail = f"{detail}: {os.strerror(errno)} ({name})" if detail else f"{os.strerror(errno)} ({name})"
        super().__init__(f"{message} [{detail}]" if detail else message, remedy=remedy, code=code)


class RegistryError(ContainError):
    """A registry refused or failed. ``retryable``: the same request may succeed later."""

    code = "registry"

    def __init__(self, message: str, *, retryable: bool = False, remedy: str = "", code: str | None = None) -> None:
        super().__init__(message, remedy=remedy, code=code)
        self.retryable = retryable


class IntegrityError(ContainError):
    """Bytes are not what was promised: a digest, a size, a signature."""

    code = "integrity"


class BuildStepFailed(ContainError):
    """The Dockerfile's own command failed. ``log_tail`` holds the last lines it printed."""

    code = "build-step-failed"

    def __init__(self, message: str, *, span: SourceSpan | None, status: int, log_tail: str = "", remedy: str = "") -> None:
        super().__init__(message, span=span, remedy=remedy)
        self.status = status
        self.log_tail = log_tail
        self.exit_status = 1


class WorkerLost(ContainError):
    """A worker process ended in the middle of its work. The message says which test, which signal, whether memory ran out."""

    code = "worker-lost"


class InternalError(ContainError):
    """A fault of contain itself."""

    code = "internal"
