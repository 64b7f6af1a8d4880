"""The options that the tests take. Nothing else is registered here.

Without paths on the command line, write ``--option=VALUE``: pytest finds this file by its ``testpaths`` only if it sees no
argument that could be a path.
"""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--buildkit-corpus",
        metavar="PATH",
        default=os.environ.get("CONTAIN_BUILDKIT_CORPUS"),
        help="a checkout (or a part of one) of moby/buildkit, whose Dockerfile test data is to be tried"
        " (default: $CONTAIN_BUILDKIT_CORPUS; without it those tests are skipped)",
    )
