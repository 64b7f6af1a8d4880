"""The JSON of the OCI runtime is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contain
from contain.runtime_spec import document
from contain.runtime_spec.document import parse_json, render_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_what_the_standard_library_reads_and_the_other_way_round(value: object) -> None:
    assert json.loads(render_json(value)) == value
    assert parse_json(json.dumps(value, indent=1)) == value
    assert parse_json(f"\n {json.dumps(value)}\t\r\n".encode()) == value


@pytest.mark.parametrize("text", ["", " ", "{", "{}x", "[1,]", "NaN", '{"a": Infinity}', '"\x01"', "{'a': 1}", "nul", b"\xff"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which one is the reader's
        parse_json(text)


def test_without_the_c_code_the_standard_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_FAST", None)
    assert parse_json(b'{"a": [1, true]}') == {"a": [1, True]}
    assert json.loads(render_json({"a": (1, None)})) == {"a": [1, None]}


def test_create_and_start_import_nothing_heavy() -> None:
    heavy = {"json", "re", "typing", "dataclasses", "argparse", "pathlib", "subprocess", "sqlite3", "inspect"}
    program = f"import sys; sys.path.insert(0, {str(Path(contain.__file__).parents[1])!r})\n"
    program += "import contain.oci_runtime.program, contain.oci_runtime.create, contain.oci_runtime.control\n"
    program += f"print(*({heavy!r} & set(sys.modules)))"
    # -S: without what an editable installation imports by itself
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
