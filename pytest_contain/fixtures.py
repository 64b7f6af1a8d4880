"""Fixtures for ordinary tests on the host: the engine, the environment's image, a container of it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def contain() -> object:
    """The container engine: build images, run containers."""
    raise NotImplementedError


@pytest.fixture(scope="session")
def image() -> object:
    """The image of the default environment, built if need be."""
    raise NotImplementedError


@pytest.fixture
def container() -> object:
    """A fresh container of the default environment: ``container.run("node", "--version").stdout``."""
    raise NotImplementedError
