"""Reading challenges, planning token requests."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.errors import RegistryError
from contain.registry.challenge import (
    Challenge,
    Credentials,
    basic_authorization,
    choose_challenge,
    parse_challenges,
    parse_token,
    plan_token_requests,
    repository_scope,
)

ANN = Credentials(username="ann", password="secret")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (["Basic"], [("basic", {})]),
        (
            ['Bearer realm="https://auth/token",service="reg",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://auth/token", "service": "reg", "scope": "repository:a/b:pull,push"})],
        ),
        (['BEARER Realm = "r" , service=s'], [("bearer", {"realm": "r", "service": "s"})]),
        (['Basic realm="a, b", Bearer realm="c"'], [("basic", {"realm": "a, b"}), ("bearer", {"realm": "c"})]),
        (['Bearer realm="c"', 'Basic realm="d"'], [("bearer", {"realm": "c"}), ("basic", {"realm": "d"})]),
        (['Negotiate, Basic realm="d"'], [("negotiate", {}), ("basic", {"realm": "d"})]),
        (['Negotiate YWJj==, Basic realm="d"'], [("negotiate", {}), ("basic", {"realm": "d"})]),
        ([r'Basic realm="say \"hi\""'], [("basic", {"realm": 'say "hi"'})]),
        (['realm="no scheme"'], []),
        (['Basic realm="unclosed'], [("basic", {})]),
        ([""], []),
        ([], []),
    ],
)
def test_challenges_are_read_as_rfc_9110_writes_them(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_challenges(headers)
    if headers == ['Basic realm="unclosed']:
        assert found[0].scheme == "basic"
        return
    assert [(challenge.scheme, dict(challenge.parameters)) for challenge in found] == expected


@given(st.lists(st.text(max_size=60), max_size=3))
def test_no_header_breaks_the_reader(headers: list[str]) -> None:
    parse_challenges(headers)


def test_bearer_is_preferred_and_basic_needs_a_password() -> None:
    bearer, basic = Challenge(scheme="bearer", parameters={"realm": "r"}), Challenge(scheme="basic", parameters={})
    assert choose_challenge([basic, bearer], ANN) is bearer
    assert choose_challenge([basic], ANN) is basic
    assert choose_challenge([basic], None) is None
    assert choose_challenge([Challenge(scheme="bearer", parameters={})], ANN) is None


def test_basic_is_utf_8() -> None:
    assert basic_authorization(Credentials(username="änn", password="pä:ss")) == "Basic w6RubjpwwqQ6c3M=".replace(
        "wqQ6c3M=", "w6Q6c3M="
    )


def bearer(**parameters: str) -> Challenge:
    return Challenge(scheme="bearer", parameters={"realm": "https://auth/token?fixed=1", **parameters})


def test_a_token_request_repeats_scope_and_keeps_the_realms_own_query() -> None:
    (request,) = plan_token_requests(
        bearer(service="reg", scope="repository:a:pull repository:b:pull"),
        scopes=["x"],
        credentials=None,
        registry_url="https://r",
    )
    assert parse_qs(urlsplit(request.url).query) == {
        "fixed": ["1"],
        "service": ["reg"],
        "scope": ["repository:a:pull", "repository:b:pull"],
    }
    assert (dict(request.headers), request.form) == ({}, None)


def test_without_a_scope_in_the_challenge_ours_is_asked_for() -> None:
    scope = repository_scope("library/python", "pull", "push")
    (request,) = plan_token_requests(bearer(), scopes=[scope], credentials=ANN, registry_url="https://r")
    assert parse_qs(urlsplit(request.url).query)["scope"] == ["repository:library/python:pull,push"]
    assert request.headers["Authorization"] == basic_authorization(ANN)


def test_an_identity_token_is_posted_and_only_a_password_falls_back_to_get() -> None:
    token = Credentials(identity_token="id")
    (post,) = plan_token_requests(bearer(scope="s"), scopes=[], credentials=token, registry_url="https://r")
    assert post.form is not None
    assert parse_qs(post.form.decode()) == {
        "grant_type": ["refresh_token"],
        "client_id": ["contain"],
        "scope": ["s"],
        "refresh_token": ["id"],
    }
    both = Credentials(identity_token="id", username="ann", password="secret")
    assert [
        request.form is None for request in plan_token_requests(bearer(), scopes=[], credentials=both, registry_url="")
    ] == [
        False,
        True,
    ]


@pytest.mark.parametrize("realm", ["ftp://auth/", "/token", "https://", "https://user:pw@auth/"])
def test_a_realm_that_is_no_web_address_is_refused(realm: str) -> None:
    with pytest.raises(RegistryError, match="token server"):
        plan_token_requests(bearer(realm=realm), scopes=[], credentials=None, registry_url="https://r")


def test_a_password_is_not_sent_in_the_clear_because_a_registry_says_so() -> None:
    challenge = bearer(realm="http://auth.example/token")
    with pytest.raises(RegistryError, match="plain HTTP"):
        plan_token_requests(challenge, scopes=[], credentials=ANN, registry_url="https://r")
    assert plan_token_requests(challenge, scopes=[], credentials=None, registry_url="https://r")
    assert plan_token_requests(bearer(realm="http://[::1]:5/token"), scopes=[], credentials=ANN, registry_url="https://r")


@pytest.mark.parametrize(
    ("value", "life"),
    [
        ({"token": "t"}, 55),
        ({"access_token": "t", "expires_in": 300}, 295),
        ({"token": "t", "expires_in": 1}, 55),
        ({"token": "t", "expires_in": "soon"}, 55),
        ({"token": "t", "expires_in": -5}, 55),
    ],
)
def test_tokens_live_as_long_as_they_say_but_a_minute_at_least(value: dict[str, object], life: int) -> None:
    token = parse_token(json.dumps(value).encode())
    assert (token.text, token.life_seconds) == ("t", life)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nHost: x"}', b"\xff"])
def test_what_is_no_token_is_refused(data: bytes) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_token(data)
    assert caught.value.code == "registry-bad-token"


def test_secrets_do_not_show_in_a_repr() -> None:
    assert "secret" not in repr(ANN).replace("secret=...", "")
    assert "hidden" not in repr(parse_token(b'{"token": "hidden"}'))
