"""Docker's stored credentials and credential helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import UsageError
from contain.registry.challenge import Credentials
from contain.registry.credentials import (
    DOCKER_HUB_KEY,
    CredentialFile,
    HelperLookup,
    parse_docker_config,
    parse_helper_answer,
    plan_lookup,
)

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Puller

HUB = "registry-1.docker.io"


def entry(user: str = "ann", password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "key", [DOCKER_HUB_KEY, "docker.io", "index.docker.io", "https://index.docker.io/v1", "registry-1.docker.io"]
)
def test_docker_hub_is_found_under_all_its_names(key: str) -> None:
    assert plan_lookup({"auths": {key: entry()}}, host=HUB) == Credentials(username="ann", password="secret")


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/", "http://r.example:5000/"]
)
def test_a_host_is_found_with_or_without_its_scheme(key: str) -> None:
    assert plan_lookup({"auths": {key: entry()}}, host="r.example:5000") is not None
    assert plan_lookup({"auths": {key: entry()}}, host="r.example") is None
    assert plan_lookup({"auths": {key: entry()}}, host=HUB) is None


def test_the_longest_path_wins_and_only_where_it_leads() -> None:
    config = {"auths": {"r.example": entry("all"), "r.example/team": entry("team"), "r.example/team/app": entry("app")}}

    def user(repository: str) -> str:
        found = plan_lookup(config, host="r.example", repository=repository)
        assert isinstance(found, Credentials)
        return found.username

    assert [user(name) for name in ("team/app", "team/other", "teamwork", "x")] == ["app", "team", "all", "all"]


def test_a_password_may_hold_colons() -> None:
    assert plan_lookup({"auths": {"r": entry(password="a:b:")}}, host="r") == Credentials(username="ann", password="a:b:")


def test_tokens_and_plain_fields_are_read() -> None:
    assert plan_lookup({"auths": {"r": {"identitytoken": "t"}}}, host="r") == Credentials(identity_token="t")
    assert plan_lookup({"auths": {"r": {"username": "a", "password": "b"}}}, host="r") == Credentials(
        username="a", password="b"
    )
    assert plan_lookup({"auths": {"r": {}}}, host="r") is None
    assert plan_lookup({}, host="r") is None


def test_a_helper_for_the_host_comes_before_the_store_and_the_store_before_the_file() -> None:
    config = {"credHelpers": {"r.example": "special"}, "credsStore": "general", "auths": {"r.example": entry()}}
    assert plan_lookup(config, host="r.example") == HelperLookup(helper="special", server="r.example")
    assert plan_lookup(config, host=HUB) == HelperLookup(helper="general", server=DOCKER_HUB_KEY)
    assert plan_lookup({"credHelpers": {"docker.io": "hub"}}, host=HUB) == HelperLookup(helper="hub", server=DOCKER_HUB_KEY)


@pytest.mark.parametrize("helper", ["../../bin/sh", "a b", "", "-x"])
def test_a_helper_is_a_name_and_never_a_path(helper: str) -> None:
    if not helper:
        assert plan_lookup({"credsStore": helper}, host="r") is None
        return
    with pytest.raises(UsageError):
        plan_lookup({"credsStore": helper}, host="r")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": []}', '{"credsStore": 5}', '{"credHelpers": "x"}'])
def test_a_broken_file_is_named_and_not_quoted(text: str) -> None:
    with pytest.raises(UsageError, match=r"config\.json") as caught:
        parse_docker_config(text, file="config.json")
    assert caught.value.code == "bad-docker-config"


@pytest.mark.parametrize("wrong", [{"auth": "%%%"}, {"auth": base64.b64encode(b"nocolon").decode()}, {"username": 5}, "text"])
def test_a_broken_entry_says_for_which_host(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"r\.example"):
        plan_lookup({"auths": {"r.example": wrong}}, host="r.example")


def test_what_a_helper_says() -> None:
    def said(**value: str) -> bytes:
        return json.dumps(value).encode()

    assert parse_helper_answer(0, said(Username="ann", Secret="s")) == Credentials(username="ann", password="s")
    assert parse_helper_answer(0, said(Username="<token>", Secret="s")) == Credentials(identity_token="s")
    assert parse_helper_answer(1, b"credentials not found in native keychain\n") is None
    assert parse_helper_answer(1, b"no keyring\n") == "no keyring"
    assert isinstance(parse_helper_answer(0, b"{}"), str)


def _helper(directory: Path, text: str) -> dict[str, str]:
    program = directory / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    (directory / "config.json").write_text('{"credsStore": "test"}')
    return {"DOCKER_CONFIG": str(directory), "PATH": f"{directory}:/usr/bin:/bin"}


def test_a_helper_is_asked_for_the_server_on_its_standard_input(tmp_path: Path, puller: Puller) -> None:
    environ = _helper(tmp_path, 'read -r server; [ "$1" = get ] && printf \'{"Username":"ann","Secret":"for %s"}\' "$server"')
    found = CredentialFile(environ=environ, progress=puller.told).find(host="r.example:5000")
    assert found == Credentials(username="ann", password="for r.example:5000")


def test_a_helper_that_fails_or_is_missing_is_a_warning(tmp_path: Path, puller: Puller) -> None:
    environ = _helper(tmp_path, "echo locked; exit 3")
    assert CredentialFile(environ=environ, progress=puller.told).find(host="r") is None
    (tmp_path / "docker-credential-test").unlink()
    assert CredentialFile(environ=environ, progress=puller.told).find(host="r") is None
    assert ["locked" in puller.told.warnings[0], "No such file" in puller.told.warnings[1]] == [True, True]


def test_no_file_no_credentials_and_the_environment_comes_first(tmp_path: Path, puller: Puller) -> None:
    environ = {"HOME": str(tmp_path)}
    assert CredentialFile(environ=environ, progress=puller.told).find(host="r") is None
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {"r": entry()}}))
    found = CredentialFile(environ=environ, progress=puller.told).find(host="r")
    assert found == Credentials(username="ann", password="secret")
    environ["DOCKER_AUTH_CONFIG"] = json.dumps({"auths": {"r": entry("bob")}})
    found = CredentialFile(environ=environ, progress=puller.told).find(host="r")
    assert found is not None
    assert found.username == "bob"
