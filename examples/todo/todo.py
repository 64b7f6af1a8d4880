"""A list of things to do, over HTTP: kept in a file, or in the list service that ``TODO_HOST`` names.

``GET /items`` lists, ``POST /items`` adds the body's text. With ``--store`` it is the list service itself.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILE = Path("/etc/todos/todos.json")


def kept_here(added: str | None) -> list[str]:
    """All items, with one more if one is given, from the file."""
    items: list[str] = json.loads(FILE.read_text()) if FILE.exists() else []
    if added is not None:
        items.append(added)
        FILE.write_text(json.dumps(items))
    return items


def kept_there(host: str, added: str | None) -> list[str]:
    """The same, from another service."""
    connection = http.client.HTTPConnection(host, 3000, timeout=10)
    connection.request("GET" if added is None else "POST", "/items", added)
    items: list[str] = json.loads(connection.getresponse().read())
    return items


class Handler(BaseHTTPRequestHandler):
    def answer(self, added: str | None) -> None:
        host = os.environ.get("TODO_HOST")
        if self.path == "/":
            body = Path("static/index.html").read_bytes()
        else:
            body = json.dumps(kept_there(host, added) if host else kept_here(added)).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())


if __name__ == "__main__":
    print(f"Using {'service at ' + os.environ['TODO_HOST'] if 'TODO_HOST' in os.environ else 'file at ' + str(FILE)}")
    print("Listening on port 3000", flush=True)
    ThreadingHTTPServer(("", 3000), Handler).serve_forever()
    sys.exit(0)
