from __future__ import annotations

from pathlib import Path

import pytest

from contain.errors import HostError
from contain.linux import network, nftables


def test_a_hold_under_which_nothing_was_made_asks_nothing_of_the_firewall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever may not touch the firewall would see that, and not why the build failed; and every later sweep would fail, too."""

    def refused(*_: object) -> None:
        raise HostError("the kernel refused")

    monkeypatch.setattr(nftables, "delete_table", refused)
    with network.hold(run_home=tmp_path):
        assert (tmp_path / "network.json").exists()
    assert not (tmp_path / "network.json").exists()
    assert network.sweep((), run_home=tmp_path) == 0
