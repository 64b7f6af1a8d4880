"""Package URLs: the one name that scanners know a package by. Values to text.

Source: https://github.com/package-url/purl-spec, ``PURL-SPECIFICATION`` and the types deb, apk, pypi and npm.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote


def package_url(kind: str, name: str, version: str, *, namespace: str = "", qualifiers: Mapping[str, str] | None = None) -> str:
    """``pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64``. Parts that are empty are left out; qualifiers are sorted."""
    text = f"pkg:{kind}/"
    if namespace:
        text += "/".join(_encode(part) for part in namespace.split("/") if part) + "/"
    text += _encode(name)
    if version:
        text += "@" + _encode(version)
    given = sorted((key, value) for key, value in (qualifiers or {}).items() if value)
    if given:
        text += "?" + "&".join(f"{key}={_encode(value)}" for key, value in given)
    return text


def _encode(text: str) -> str:
    # The specification: a colon stays as it is, everything else but letters, digits and .-_~ is encoded.
    return quote(text, safe=":", errors="replace")
