"""What long work says on pytest's terminal: nothing while all comes from the cache, the steps once one really runs."""

from __future__ import annotations

import pytest


class TerminalProgress:
    """A `contain.progress.Progress` for builds and pulls before the tests."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._pending: str | None = None

    def _write(self, text: str, **markup: bool) -> None:
        if self._config.get_verbosity() >= 0:
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.write_line(text, **markup)

    def _show_pending(self) -> None:
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None

    def step(self, title: str) -> None:
        """Remember it: it is shown when it does something."""
        self._pending = title

    def log(self, text: str) -> None:
        """A step that prints is a step that runs."""
        self._show_pending()
        if self._config.get_verbosity() > 0:
            for line in text.splitlines():
                self._write(f"    {line}")

    def note(self, text: str) -> None:
        """Only when asked for more."""
        if self._config.get_verbosity() > 0:
            self._write(text)

    def warn(self, text: str) -> None:
        """Always."""
        self._write(text, yellow=True)

    def amount(self, label: str, done: int, total: int | None) -> None:
        """A transfer is work."""
        self._show_pending()
