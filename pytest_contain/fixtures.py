"""Fixtures for ordinary tests, which run on the host and look into containers.

``container.run("node", "--version")`` is the whole of it in most tests. Importing this module imports nothing of ``contain``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from contain.engine import Engine, ReadyImage
    from pytest_contain.onhost import Container

CONTAINER: pytest.StashKey[Container] = pytest.StashKey()


@pytest.fixture(scope="session")
def contain() -> Iterator[Engine]:
    """The container engine: `contain.engine.Engine`, opened for the session."""
    from pytest_contain.onhost import open_engine

    with open_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def image(contain: Engine, pytestconfig: pytest.Config) -> ReadyImage:
    """The image of the run's environment: that of ``--contain-env``, or the default one; built from cache if it has a Dockerfile."""
    from pytest_contain.onhost import ready_image

    return ready_image(contain, pytestconfig)


@pytest.fixture
def container(
    request: pytest.FixtureRequest, contain: Engine, image: ReadyImage, pytestconfig: pytest.Config
) -> Iterator[Container]:
    """A fresh container of the run's environment, for one test: ``container.run("node", "--version").stdout``.

    What one ``run`` writes to its disk is there in the next one; processes end with their ``run``. Its output is a section of
    the test's report if the test fails.
    """
    from pytest_contain.onhost import open_container

    with open_container(contain, image, pytestconfig) as opened:
        request.node.stash[CONTAINER] = opened
        yield opened
