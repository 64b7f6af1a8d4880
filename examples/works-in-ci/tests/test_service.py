from __future__ import annotations

import io
import json
from wsgiref.util import setup_testing_defaults

import pytest

from service import Service

NOON = 1_742_900_400  # 25 March 2025, 11:00 UTC


class Client:
    """Calls a WSGI application, without a network."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[str, dict[str, object]]:
        environ: dict[str, object] = {}
        setup_testing_defaults(environ)
        environ |= {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        statuses: list[str] = []
        answer = b"".join(self.service(environ, lambda status, *_: statuses.append(status)))  # type: ignore[arg-type]
        return statuses[0], json.loads(answer)


@pytest.fixture
def client() -> Client:
    return Client(Service())


def test_a_new_ledger_is_empty(client: Client) -> None:
    assert client.request("GET", "/months/2025-03") == ("200 OK", {"month": "2025-03", "total": "0.00"})


def test_a_booked_payment_is_in_the_total(client: Client) -> None:
    status, _ = client.request("POST", "/payments", json.dumps({"received": NOON, "cents": 4_200}).encode())
    assert status == "201 Created"
    assert client.request("GET", "/months/2025-03")[1]["total"] == "42.00"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"received": "soon", "cents": 1}'])
def test_what_is_no_payment_is_refused(client: Client, body: bytes) -> None:
    assert client.request("POST", "/payments", body)[0] == "400 Bad Request"


def test_what_is_not_there_is_not_found(client: Client) -> None:
    assert client.request("GET", "/secrets")[0] == "404 Not Found"
