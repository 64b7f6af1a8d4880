"""The configuration file, and whom it makes us ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.configuration import configuration_path, parse_tables, read_tables
from contain.errors import UsageError
from contain.registry.configuration import (
    Endpoint,
    RegistryConfiguration,
    is_loopback,
    parse_mirror,
    plan_endpoints,
    read_configuration,
)


def test_the_file_is_where_the_user_expects_it() -> None:
    assert configuration_path({}, user_id=0) == Path("/etc/contain/config.toml")
    assert configuration_path({"HOME": "/home/ann"}, user_id=5) == Path("/home/ann/.config/contain/config.toml")
    assert configuration_path({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, user_id=5) == Path("/x/contain/config.toml")
    assert configuration_path({"HOME": "/h", "XDG_CONFIG_HOME": "x"}, user_id=5) == Path("/h/.config/contain/config.toml")
    assert configuration_path({"CONTAIN_CONFIG": "/c.toml"}, user_id=0) == Path("/c.toml")


def test_no_file_no_settings_but_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "config.toml"
    monkeypatch.delenv("CONTAIN_CONFIG", raising=False)
    assert read_tables(missing) == {}
    assert read_configuration(missing) == RegistryConfiguration()
    monkeypatch.setenv("CONTAIN_CONFIG", str(missing))
    with pytest.raises(UsageError, match="CONTAIN_CONFIG"):
        read_tables()


@pytest.mark.parametrize("text", ["x", "[registry]", "debian = 5", "[registries.a]\nmirors = []"])
def test_what_is_not_known_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"config\.toml") as caught:
        read_configuration(path)
    assert caught.value.code == "bad-configuration"


def test_a_misspelt_table_is_guessed() -> None:
    with pytest.raises(UsageError, match=r"did you mean \[registries\]"):
        parse_tables("[registry]", file="f")


@pytest.mark.parametrize(
    "table",
    ["mirrors = 'x'", "mirrors = [5]", "mirrors = ['ftp://x']", "mirrors = ['a b']", "mirrors = ['x/../y']", "insecure = 1"],
)
def test_a_wrong_value_is_refused_with_its_registry(table: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[registries."r.example"]\n{table}\n')
    with pytest.raises(UsageError) as caught:
        read_configuration(path)
    assert caught.value.code == "bad-configuration"


def test_settings_arrive(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[registries."index.docker.io"]\nmirrors = ["m.example:5000/hub", "http://n.example"]\n'
        '[registries."r.local:5000"]\ninsecure = true\n[debian]\nmirror = "http://deb.example"\n'
    )
    configuration = read_configuration(path)
    assert configuration.mirrors == {"docker.io": ("m.example:5000/hub", "http://n.example")}
    assert configuration.insecure == {"r.local:5000"}


def test_mirrors_come_first_and_the_registry_last() -> None:
    configuration = RegistryConfiguration(mirrors={"docker.io": ("m.example:5000/hub", "http://n.example")})
    assert plan_endpoints("docker.io", configuration) == (
        Endpoint(host="m.example:5000", schemes=("https",), prefix="hub", mirror_of="docker.io"),
        Endpoint(host="n.example", schemes=("http",), mirror_of="docker.io"),
        Endpoint(host="registry-1.docker.io", schemes=("https",)),
    )


@pytest.mark.parametrize(
    ("domain", "schemes"),
    [
        ("r.example", ("https",)),
        ("localhost:5000", ("https", "http")),
        ("127.0.0.1:5000", ("https", "http")),
        ("[::1]:5000", ("https", "http")),
        ("localhost.example", ("https",)),
        ("r.local:5000", ("https", "http")),
        ("r.local", ("https",)),
    ],
)
def test_plain_http_is_for_loopback_and_for_what_is_configured(domain: str, schemes: tuple[str, ...]) -> None:
    (endpoint,) = plan_endpoints(domain, RegistryConfiguration(insecure=frozenset({"r.local:5000"})))
    assert endpoint.schemes == schemes


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("LOCALHOST:1", True), ("::1", True), ("[::1]", True), ("127.9.9.9:80", True), ("128.0.0.1", False)],
)
def test_loopback_is_known_by_its_names(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_repository_on_a_mirror_has_the_mirrors_prefix() -> None:
    assert Endpoint(host="m", schemes=(), prefix="hub/proxy").repository("library/python") == "hub/proxy/library/python"
    assert parse_mirror("https://m.example/a/b/") == ("https", "m.example", "a/b")
