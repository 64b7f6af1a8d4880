"""Logging in and out: what is asked, what is stored where, and what is left alone."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import HostError, RegistryError, UsageError
from contain.registry.challenge import Credentials
from contain.registry.configuration import RegistryConfiguration
from contain.registry.credentials import DOCKER_HUB_KEY, CredentialFile
from contain.registry.login import LoginServer, existing_login, log_in, log_out, parse_server, plan_login, plan_logout

if TYPE_CHECKING:
    from tests.unit.registry.conftest import FaultyRegistry, Puller

HOST = LoginServer(domain="h:5000", host="h:5000", name="h:5000")
ANN = Credentials(username="ann", password="pass:word")
NOTHING = RegistryConfiguration()


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "DOCKER_AUTH_CONFIG", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.fixture
def guarded(registry: FaultyRegistry) -> FaultyRegistry:
    registry.basic = ("ann", "pass:word")
    return registry


def enter(registry: FaultyRegistry, environ: Mapping[str, str], told: Any, password: str = "pass:word") -> None:
    server = parse_server(registry.host)
    log_in(server, username="ann", password=password, progress=told, environ=environ, configuration=NOTHING)


def config_of(environ: Mapping[str, str]) -> Any:
    return json.loads(Path(environ["HOME"], ".docker/config.json").read_text())


@pytest.mark.parametrize(
    ("text", "host", "name"),
    [
        ("", "registry-1.docker.io", DOCKER_HUB_KEY),
        ("docker.io", "registry-1.docker.io", DOCKER_HUB_KEY),
        ("https://index.docker.io/v1/", "registry-1.docker.io", DOCKER_HUB_KEY),
        ("localhost:5000", "localhost:5000", "localhost:5000"),
        ("https://registry.example.org/v2/", "registry.example.org", "registry.example.org"),
        ("[::1]:5000", "[::1]:5000", "[::1]:5000"),
    ],
)
def test_a_server_is_named_as_docker_names_it(text: str, host: str, name: str) -> None:
    server = parse_server(text)
    assert (server.host, server.name) == (host, name)


@pytest.mark.parametrize("text", ["not a host", "a_b", "user@host", "host:port", "-x", "..", "host:123456"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_server(text)
    assert caught.value.code == "bad-server"


def test_a_login_keeps_everything_else_of_the_file() -> None:
    config = {"HttpHeaders": {"X": "1"}, "auths": {"other": {"auth": "eDp5"}}, "currentContext": "c"}
    change = plan_login(config, HOST, ANN)
    assert change.call is None
    packed = base64.b64encode(b"ann:pass:word").decode()
    assert change.config == {**config, "auths": {"other": {"auth": "eDp5"}, "h:5000": {"auth": packed}}}


@pytest.mark.parametrize("config", [{"credsStore": "safe"}, {"credHelpers": {"h:5000": "safe"}, "credsStore": "other"}])
def test_with_a_helper_the_file_holds_no_secret(config: dict[str, Any]) -> None:
    change = plan_login(config, HOST, ANN)
    assert change.call is not None
    assert (change.call.helper, change.call.action) == ("safe", "store")
    assert json.loads(change.call.text) == {"ServerURL": "h:5000", "Username": "ann", "Secret": "pass:word"}
    assert change.config == {**config, "auths": {"h:5000": {}}}
    assert "pass:word" not in repr(change)


def test_a_logout_takes_every_spelling_of_the_host_and_no_other() -> None:
    auths = {"h:5000": {}, "https://h:5000/v1/": {}, "https://h:5000": {}, "h:5000/team": {"auth": "eDp5"}, "h": {}}
    change = plan_logout({"auths": auths, "x": 1}, HOST, held=False)
    assert change.config == {"auths": {"h:5000/team": {"auth": "eDp5"}, "h": {}}, "x": 1}
    assert change.known
    assert not plan_logout({"auths": {"h": {}}}, HOST, held=False).known


def test_what_the_registry_accepts_is_stored_for_the_owner_only(
    guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller
) -> None:
    os.umask(0o022)
    enter(guarded, environ, puller.told)
    path = Path(environ["HOME"], ".docker/config.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]
    found = CredentialFile(environ=environ, progress=puller.told).find(host=guarded.host)
    assert found == ANN
    assert any("unencrypted" in text for text in puller.told.warnings)
    assert existing_login(parse_server(guarded.host), progress=puller.told, environ=environ) == "ann"
    log_in(parse_server(guarded.host), progress=puller.told, environ=environ, configuration=NOTHING)  # with what is stored


def test_what_the_registry_does_not_accept_is_not_stored(
    guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller
) -> None:
    with pytest.raises(RegistryError) as caught:
        enter(guarded, environ, puller.told, password="wrong")
    assert caught.value.code == "login-denied"
    assert "wrong" not in str(caught.value)
    assert not Path(environ["HOME"], ".docker").exists()


@pytest.mark.parametrize("password", ["pass:word", "wrong"])
def test_a_token_server_decides_where_there_is_one(
    guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller, password: str
) -> None:
    guarded.token_realm = f"http://{guarded.host}/token"
    if password == "wrong":
        with pytest.raises(RegistryError, match="incorrect username or password"):
            enter(guarded, environ, puller.told, password=password)
    else:
        enter(guarded, environ, puller.told, password=password)
        assert config_of(environ)["auths"]
    (asked,) = guarded.asked("/token")
    assert asked.query["account"] == ["ann"]
    assert "scope" not in asked.query


def test_what_is_no_registry_gets_nothing_stored(
    registry: FaultyRegistry, environ: Mapping[str, str], puller: Puller, make: Any
) -> None:
    registry.fault("/v2/$", make.answer(status=404))
    with pytest.raises(RegistryError) as caught:
        enter(registry, environ, puller.told)
    assert caught.value.code == "not-a-registry"
    assert not Path(environ["HOME"], ".docker").exists()


def test_a_file_that_cannot_be_understood_is_left_as_it_is(
    guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller
) -> None:
    path = Path(environ["HOME"], ".docker/config.json")
    path.parent.mkdir()
    path.write_text("{ // a comment\n}")
    with pytest.raises(UsageError) as caught:
        enter(guarded, environ, puller.told)
    assert caught.value.code == "bad-docker-config"
    assert path.read_text() == "{ // a comment\n}"


def test_a_symlink_to_the_file_stays_one(guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller) -> None:
    home = Path(environ["HOME"])
    (home / ".docker").mkdir()
    (home / "real.json").write_text('{"detachKeys": "ctrl-q"}')
    (home / ".docker/config.json").symlink_to("../real.json")
    enter(guarded, environ, puller.told)
    assert (home / ".docker/config.json").is_symlink()
    assert set(json.loads((home / "real.json").read_text())) == {"detachKeys", "auths"}


def test_a_place_that_cannot_be_written_is_an_error_that_says_so(
    guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller
) -> None:
    Path(environ["HOME"], ".docker").write_text("a file")
    with pytest.raises(HostError) as caught:
        enter(guarded, environ, puller.told)
    assert caught.value.code == "credentials-not-stored"


def helper(environ: Mapping[str, str], script: str) -> Path:
    directory = Path(environ["HOME"], "bin")
    directory.mkdir()
    program = directory / "docker-credential-tests"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    configured = Path(environ["HOME"], ".docker/config.json")
    configured.parent.mkdir()
    configured.write_text('{"credsStore": "tests"}')
    return Path(environ["HOME"], "kept")


KEEPING = """
case "$1" in
store) cat > "$HOME/kept" ;;
get) cat > /dev/null; cat "$HOME/kept" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) cat > /dev/null; rm "$HOME/kept" ;;
esac
"""


def test_a_helper_keeps_and_forgets(guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller) -> None:
    kept = helper(environ, KEEPING)
    enter(guarded, environ, puller.told)
    assert json.loads(kept.read_text())["Secret"] == "pass:word"
    assert config_of(environ) == {"credsStore": "tests", "auths": {guarded.host: {}}}
    assert not puller.told.warnings
    assert log_out(parse_server(guarded.host), progress=puller.told, environ=environ)
    assert not kept.exists()
    assert config_of(environ) == {"credsStore": "tests", "auths": {}}
    assert not log_out(parse_server(guarded.host), progress=puller.told, environ=environ)


def test_a_helper_that_fails_means_not_logged_in(guarded: FaultyRegistry, environ: Mapping[str, str], puller: Puller) -> None:
    helper(environ, "cat; exit 3")  # and it repeats the secret
    with pytest.raises(HostError) as caught:
        enter(guarded, environ, puller.told)
    assert caught.value.code == "credentials-not-stored"
    assert "pass:word" not in str(caught.value)
    assert config_of(environ) == {"credsStore": "tests"}


def test_logging_out_where_nobody_is_logged_in_writes_nothing(environ: Mapping[str, str], puller: Puller) -> None:
    assert not log_out(HOST, progress=puller.told, environ=environ)
    assert not Path(environ["HOME"], ".docker").exists()


def test_the_password_goes_to_the_server_only(registries: Any, environ: Mapping[str, str], puller: Puller, make: Any) -> None:
    """A redirect elsewhere carries no credentials, so it cannot make a login succeed there."""
    here, elsewhere = registries(), registries()
    here.basic = ("ann", "pass:word")
    here.fault("/v2/$", make.answer(), make.answer(status=307, headers={"Location": f"http://{elsewhere.host}/v2/"}))
    with pytest.raises(RegistryError) as caught:
        enter(here, environ, puller.told)
    assert caught.value.code == "not-a-registry"
    assert not Path(environ["HOME"], ".docker").exists()
    assert {seen.authorization for seen in elsewhere.seen} == {None}
