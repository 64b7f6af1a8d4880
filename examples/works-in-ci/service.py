"""The ledger over HTTP: ``POST /payments`` books one, ``GET /months/2025-04`` says what came in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

from ledger import Payment, render_amount, total_cents

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Service:
    """A WSGI application that keeps its payments in memory."""

    def __init__(self) -> None:
        self.payments: list[Payment] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, answer = self.answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ)
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def answer(self, method: str, path: str, environ: WSGIEnvironment) -> tuple[str, dict[str, object]]:
        """Status line and document."""
        if (method, path) == ("POST", "/payments"):
            try:
                received = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
                payment = Payment(int(received["received"]), int(received["cents"]), str(received.get("note", "")))
            except (ValueError, KeyError, TypeError):
                return "400 Bad Request", {"error": "a payment has `received` (seconds) and `cents`"}
            self.payments.append(payment)
            return "201 Created", {"payments": len(self.payments)}
        month = re.fullmatch(r"/months/(\d{4}-\d\d)", path)
        if method == "GET" and month:
            return "200 OK", {"month": month[1], "total": render_amount(total_cents(self.payments, month[1]))}
        return "404 Not Found", {"error": f"nothing at {path}"}


def main() -> None:
    """Serve until somebody stops it."""
    with make_server("", int(os.environ.get("PORT", "8000")), Service()) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
