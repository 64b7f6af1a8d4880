"""Authentication: what a registry asks for, what we answer. Values in, values out; sends nothing.

Sources: RFC 9110 section 11 (challenges), https://distribution.github.io/distribution/spec/auth/token/ and ``oauth/``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from contain.errors import RegistryError
from contain.registry.configuration import is_loopback
from contain.values import dataclass

CLIENT_ID = "contain"
SHORTEST_TOKEN_LIFE_SECONDS = 60  # the token specification's default, and what a shorter answer is raised to
_MARGIN_SECONDS = 5
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"({_WORD})(?=[ \t,]|$)")
_GAP = re.compile(r"[\s,]+")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header. ``scheme`` and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What we know about the user at one registry. With ``identity_token`` the password is not used; ``registry_token`` is
    sent as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, secret=...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One HTTP request to a token server. ``form``: the body of a POST, None for a GET."""

    url: str
    headers: Mapping[str, str]
    form: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token and the life that it has from now."""

    text: str
    life_seconds: int

    def __repr__(self) -> str:
        return f"Token(life_seconds={self.life_seconds})"


def parse_challenges(headers: Sequence[str]) -> tuple[Challenge, ...]:
    """The challenges of all ``WWW-Authenticate`` headers, in their order. What cannot be read is left out."""
    return tuple(challenge for header in headers for challenge in _parse_header(header))


def _parse_header(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if gap := _GAP.match(text, at):
            at = gap.end()
        elif (parameter := _PARAMETER.match(text, at)) and found:
            value = re.sub(r"\\(.)", r"\1", parameter[2]) if parameter[2] is not None else parameter[3]
            found[-1][1].setdefault(parameter[1].lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(text, at):
            found.append((scheme[1].lower(), {}))
            at = scheme.end()
            # `Negotiate TOKEN68`: nothing we could answer, but the next challenge may follow it. A lone word before a comma
            # cannot be told from it, and is no challenge either.
            if token := _TOKEN68.match(text, at):
                at = token.end()
        else:
            break
    return [Challenge(scheme=scheme, parameters=MappingProxyType(parameters)) for scheme, parameters in found]


def choose_challenge(challenges: Sequence[Challenge], credentials: Credentials | None) -> Challenge | None:
    """The challenge to answer: Bearer with a realm first, else Basic if there is a password to send."""
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            return challenge
    if credentials is not None and credentials.password:
        for challenge in challenges:
            if challenge.scheme == "basic":
                return challenge
    return None


def without_scope(challenge: Challenge) -> Challenge:
    """The challenge as it would stand for any repository."""
    parameters = {name: value for name, value in challenge.parameters.items() if name != "scope"}
    return Challenge(scheme=challenge.scheme, parameters=MappingProxyType(parameters))


def basic_authorization(credentials: Credentials) -> str:
    """The value of an ``Authorization`` header for Basic authentication (RFC 7617, UTF-8)."""
    return "Basic " + base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()


def repository_scope(repository: str, *actions: str) -> str:
    """The scope of a token: ``repository:library/python:pull``."""
    return f"repository:{repository}:{','.join(actions)}"


def combine_scopes(demanded: Sequence[str], ours: Sequence[str]) -> list[str]:
    """What to ask a token for: what the challenge demands, with the actions that we want on the same repositories, and our
    further scopes (a repository to mount from). The first of ours gives way to the demand: the registry knows better what its
    repository is called."""
    if not demanded:
        return list(ours)
    combined = {resource: dict.fromkeys(actions.split(",")) for resource, actions in map(_split_scope, demanded)}
    for index, (resource, actions) in enumerate(map(_split_scope, ours)):
        if resource in combined or index:
            combined.setdefault(resource, {}).update(dict.fromkeys(actions.split(",")))
    return [f"{resource}:{','.join(actions)}" if resource else ",".join(actions) for resource, actions in combined.items()]


def _split_scope(scope: str) -> tuple[str, str]:
    resource, _, actions = scope.rpartition(":")
    return resource, actions


def plan_token_requests(
    challenge: Challenge, *, scopes: Sequence[str], credentials: Credentials | None, registry_url: str
) -> tuple[TokenRequest, ...]:
    """Requests for a token, to be tried in turn while the answer is 404 or 405: POST for an identity token, then GET.

    The scope is that of `combine_scopes`. Raises `RegistryError` (code ``registry-bad-challenge``) if the realm is
    no URL, or if it would send secrets in the clear though the registry itself speaks HTTPS.
    """
    realm = challenge.parameters["realm"]
    parts = urlsplit(realm)
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc:
        raise RegistryError(f"the registry names a token server that is no URL: {realm[:200]!r}", code="registry-bad-challenge")
    secret = credentials is not None and bool(credentials.password or credentials.identity_token)
    if secret and parts.scheme == "http" and registry_url.startswith("https:") and not is_loopback(parts.netloc):
        raise RegistryError(
            f"the registry wants the password sent over plain HTTP to {parts.netloc}; refused", code="registry-bad-challenge"
        )
    asked = combine_scopes(challenge.parameters.get("scope", "").split(), scopes)
    service = challenge.parameters.get("service", "")
    base = urlunsplit((parts.scheme, parts.netloc, parts.path or "/", "", ""))
    query = [*parse_qsl(parts.query, keep_blank_values=True)]
    if service:
        query.append(("service", service))
    requests = []
    headers: dict[str, str] = {}
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": CLIENT_ID,
            "scope": " ".join(asked),
            "refresh_token": credentials.identity_token,
        }
        requests.append(
            TokenRequest(
                url=realm,
                headers=MappingProxyType({"Content-Type": "application/x-www-form-urlencoded"}),
                form=urlencode(form).encode(),
            )
        )
    if credentials is not None and credentials.password:
        query.append(("account", credentials.username))
        headers["Authorization"] = basic_authorization(credentials)
    if not requests or credentials is None or credentials.password:
        query += [("scope", scope) for scope in asked]
        requests.append(TokenRequest(url=f"{base}?{urlencode(query)}" if query else base, headers=MappingProxyType(headers)))
    return tuple(requests)


def parse_token(data: bytes) -> Token:
    """The answer of a token server: ``token`` or ``access_token``, ``expires_in`` (default 60 s).

    Raises `RegistryError` (code ``registry-bad-token``).
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RegistryError("the token server's answer is not JSON", code="registry-bad-token") from error
    text = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(text, str) or not re.match(r"^[\x21-\x7e]+$", text):
        raise RegistryError("the token server's answer holds no token", code="registry-bad-token")
    life = value.get("expires_in")
    if not isinstance(life, int | float) or not 0 < life < 1e9:
        life = SHORTEST_TOKEN_LIFE_SECONDS
    return Token(text=text, life_seconds=max(int(life), SHORTEST_TOKEN_LIFE_SECONDS) - _MARGIN_SECONDS)
