from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.environment import read_secret_key
from contain.errors import HostError


def test_the_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    home = tmp_path / "home"
    key = read_secret_key(home, {})
    assert len(key) == 32
    assert read_secret_key(home, {}) == key
    assert (home / "fingerprint-key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(home) == ["fingerprint-key"]
    assert read_secret_key(tmp_path / "other", {}) != key


def test_the_users_key_wins_and_nothing_is_written(tmp_path: Path) -> None:
    assert read_secret_key(tmp_path, {"CONTAIN_FINGERPRINT_KEY": "shared"}) == b"shared"
    assert os.listdir(tmp_path) == []


def test_a_key_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "fingerprint-key").write_bytes(b"short")
    assert len(read_secret_key(tmp_path, {})) == 32


def test_a_home_that_cannot_be_written_is_a_host_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        read_secret_key(tmp_path / "file", {})
    assert caught.value.code == "fingerprint-key"
