"""``--format``: Docker's Go templates, the part of them that people type. Text and values to text; no I/O.

Parsed by `contain.cli.template_language`. ``json`` alone is a JSON value for each row; ``table TEMPLATE`` puts headings above;
``\\t`` and ``\\n`` in the text are a tab and a line's end.

Source: docker/cli ``docs/reference/formatting``, Go's packages ``text/template`` and ``fmt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from contain.cli.output import render_table
from contain.cli.template_language import first_fields, parse_template, render_nodes


def render_rows(template: str, rows: Sequence[Mapping[str, object]], *, headings: Mapping[str, str]) -> str:
    """Each row by the template, a line each; with ``table`` before the template, below a line of headings.

    Raises `UsageError` (code ``bad-template``), `NotSupported` (code ``template-not-supported``).
    """
    if template == "json":
        return "".join(json.dumps(dict(row), separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows)
    is_table = template == "table" or template.startswith("table ")
    text = _unescape(template.removeprefix("table").strip() if is_table else template)
    if is_table and not text:
        text = "\t".join(f"{{{{.{field}}}}}" for field in headings)
    nodes = parse_template(text)
    lines = [render_nodes(nodes, row) for row in rows]
    if not is_table:
        return "".join(line + "\n" for line in lines)
    # A heading stands for its field; functions do not apply to it.
    titles = first_fields(nodes, lambda field: headings.get(field, field.upper())).split("\t")
    cells = [line.split("\t") for line in lines]
    width = max(len(row) for row in [titles, *cells])
    return render_table([*titles, *[""] * (width - len(titles))], [[*row, *[""] * (width - len(row))] for row in cells])


def _unescape(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")


def render_template(template: str, value: Mapping[str, object]) -> str:
    """One value by a template."""
    return render_nodes(parse_template(template), value)


def check_template(template: str | None) -> None:
    """Raises what a template is refused with, before anything is done for it."""
    if template is not None and template not in ("json", "table"):
        parse_template(_unescape(template.removeprefix("table ")))
