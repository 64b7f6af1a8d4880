"""Hooks that pytest-contain calls in other plugins and conftest files of the host. Mark yours ``optionalhook=True``."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookspec(firstresult=True)
def pytest_contain_make_backend(config: pytest.Config) -> Any:
    """Return a `pytest_contain.backend.Backend` that makes environments ready in place of ``contain``'s own, or None."""


@pytest.hookspec
def pytest_contain_environment_ready(config: pytest.Config, name: str, digest: str) -> None:
    """Called once for each environment of a run, when its image is there. ``digest`` is empty if it has none."""
