"""Real Dockerfiles, built with empty stores under different conditions, give one digest; what cannot is named.

A few of those that ``nox -s reproducible`` builds, which takes long.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset, to take CPUs away"),
]


@pytest.fixture(scope="module")
def check() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("reproducible_check", ROOT / "benchmarks/reproducible/check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproducible_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reproducible_check"]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("first") / "store", tmp_path_factory.mktemp("second") / "store"


@pytest.mark.parametrize("name", ["debian-tools", "debian-users"])
def test_two_machines_build_one_image(name: str, check: ModuleType, homes: tuple[Path, Path]) -> None:
    same, row = check.check_case(check.HERE / "cases" / name, homes)
    assert same, row


@pytest.mark.parametrize("name", ["timestamp"])
def test_what_differs_is_given_its_cause(name: str, check: ModuleType, homes: tuple[Path, Path]) -> None:
    named, row = check.check_cannot(check.HERE / "cannot" / name, homes[0])
    assert named, row


def test_without_normalisation_the_same_dockerfile_differs(check: ModuleType, homes: tuple[Path, Path]) -> None:
    context = str(check.HERE / "cases" / "debian-tools")
    done = check.run_contain(["build", "--verify", "--no-reproducible", context], home=homes[0], second=False)
    assert done.returncode == 1
    assert done.stdout.startswith("DIFFERS")
    for cause in ("apt-log", "dpkg-log", "alternatives-log", "ldconfig-aux-cache"):
        assert f"  {cause} (" in done.stdout
    assert "unknown" not in done.stdout
