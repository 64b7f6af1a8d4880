"""Variables from files, as ``contain run`` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.cli.restrictions import read_env_files
from contain.errors import UsageError


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
