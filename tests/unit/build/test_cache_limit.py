from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contain.build.cache.limit import DEFAULT_LIMIT_BYTES, keep_limit, parse_cache_limit
from contain.errors import UsageError
from contain.progress import Silent
from contain.store import Store


@pytest.mark.parametrize(
    ("table", "limit"),
    [
        ({}, DEFAULT_LIMIT_BYTES),
        ({"cache_limit": "none"}, None),
        ({"cache_limit": "20GB"}, 20 << 30),
        ({"cache_limit": "512m"}, 512 << 20),
        ({"cache_limit": 1000}, 1000),
    ],
)
def test_the_limit_is_read_from_the_configuration(table: dict[str, Any], limit: int | None) -> None:
    assert parse_cache_limit(table) == limit


@pytest.mark.parametrize("table", [{"cache_limit": "much"}, {"cache_limit": -1}, {"cache_limit": True}, {"cache_limits": "1g"}])
def test_a_wrong_limit_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cache_limit(table)
    assert caught.value.code == "bad-configuration"


def test_a_wrong_configuration_does_not_fail_a_build_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('[build]\ncache_limit = "much"\n')
    monkeypatch.setenv("CONTAIN_CONFIG", str(tmp_path / "config.toml"))
    warnings: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    with Store.open(tmp_path / "store") as store:
        keep_limit(store, Told())
    (warning,) = warnings
    assert "the build cache is not kept small" in warning
