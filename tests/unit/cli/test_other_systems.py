"""Where there is no Linux kernel, that is said, whatever the command."""

from __future__ import annotations

import sys

import pytest

from contain.cli.main import main


@pytest.mark.parametrize("command", [("run", "x"), ("build", "."), ("ps",), ("doctor",)])
def test_other_systems_are_refused_with_a_way_out(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(command) != 0
    shown = capsys.readouterr().err
    assert "'darwin'" in shown
    assert "colima" in shown
