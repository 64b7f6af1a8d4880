"""What a package's own metadata says about its licence, from text to values. Never guesses one from a licence's wording.

Text comes from inside an image and is not trusted: what cannot be understood gives no licence and never raises.
"""

from __future__ import annotations

import re

from contain.values import dataclass

_LONGEST_NAME = 100
_MOST_NAMES = 64
_WORD = r"\(?[A-Za-z0-9][A-Za-z0-9.+-]*(?::[A-Za-z0-9.+-]+)?\)*"
_EXPRESSION = re.compile(rf"^\(*{_WORD}(?: (?:AND|OR|WITH) \(*{_WORD})*\Z")
_OSI = "License :: OSI Approved :: "
_LICENSE = "License :: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Licences:
    """Either one SPDX expression, or names as the package's authors wrote them, sorted. Both empty: nothing is known."""

    expression: str = ""
    names: tuple[str, ...] = ()


def _named(names: set[str]) -> Licences:
    fitting = sorted(name for name in names if 0 < len(name) <= _LONGEST_NAME and "\n" not in name)
    return Licences(names=tuple(fitting[:_MOST_NAMES]))


def parse_expression(text: str) -> Licences:
    """A field that is meant to hold an SPDX expression (npm's ``license``, apk's ``L:``): the expression if it looks like one."""
    text = " ".join(text.split())
    if _EXPRESSION.match(text) and text.count("(") == text.count(")") and len(text) <= 1000:
        return Licences(expression=text)
    return _named({text})


def parse_debian_copyright(text: str) -> Licences:
    """The short names in a machine-readable ``debian/copyright``. Source: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"""
    head = text[:2000].lower()
    if "format:" not in head or "copyright-format" not in head:
        return Licences()
    names: set[str] = set()
    for line in text.split("\n"):
        if line.startswith("License:"):
            for name in re.split(r"\s+(?:and|or|and/or)\s+|[,|]", line.removeprefix("License:")):
                names.add(name.strip())
    return _named(names)


def parse_python_licence(text: str) -> Licences:
    """Of a METADATA file: ``License-Expression`` (PEP 639), else the classifiers, else a short ``License``."""
    names: set[str] = set()
    free = ""
    for line in text.replace("\r\n", "\n").partition("\n\n")[0].split("\n"):
        key, colon, value = line.partition(":")
        value = value.strip()
        if not colon or line[:1] in {" ", "\t"}:
            continue
        if key.lower() == "license-expression":
            return parse_expression(value)
        if key.lower() == "classifier" and value.startswith(_LICENSE) and value != _OSI.rstrip(": "):
            names.add(value.removeprefix(_OSI).removeprefix(_LICENSE))
        if key.lower() == "license":
            free = value
    if names - {"OSI Approved"}:
        return _named(names - {"OSI Approved"})
    return _named({free}) if free.upper() != "UNKNOWN" else Licences()
