"""Capabilities and variables from files, as ``contain run`` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.cli.restrictions import parse_capabilities, read_env_files
from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES


def test_capabilities_are_dropped_and_kept_as_docker_does() -> None:
    assert parse_capabilities([], []) == DEFAULT_CAPABILITIES
    assert parse_capabilities(["net_bind_service"], ["ALL"]) == {"NET_BIND_SERVICE"}
    assert parse_capabilities(["CAP_KILL"], ["kill", "CAP_CHOWN"]) == DEFAULT_CAPABILITIES - {"CHOWN"}


@pytest.mark.parametrize("name", ["SYS_ADMIN", "cap_net_admin", "ALL"])
def test_what_cannot_be_added_is_refused_by_name(name: str) -> None:
    with pytest.raises(NotSupported, match=f"--cap-add {name.upper().removeprefix('CAP_')}"):
        parse_capabilities([name], [])


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(UsageError, match='invalid capability: "nope"'):
        parse_capabilities([], ["nope"])


def test_a_file_of_variables_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    monkeypatch.delenv("MISSING", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\n\n  A=b = c\nQ='x'\nGIVEN\nMISSING\nE=\n")
    assert read_env_files([str(file)]) == (("A", "b = c"), ("Q", "'x'"), ("GIVEN", "here"), ("E", ""))


@pytest.mark.parametrize("data", [b"a b=c\n", b"=x\n", b"\xff\xfe\n"])
def test_a_file_that_holds_no_variables_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "env"
    file.write_bytes(data)
    with pytest.raises(UsageError):
        read_env_files([str(file)])
    with pytest.raises(UsageError, match="No such file"):
        read_env_files([str(tmp_path / "none")])
