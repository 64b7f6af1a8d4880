"""The options that the tests take. Nothing else is registered here."""

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
