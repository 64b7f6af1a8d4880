from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.environment import SHELL_PROBE, Environment, compare, parse_probe, probe, probe_here, python_probe, with_runtime
from contain.environment import facts as outside
from contain.environment.facts import RUNTIME_DIMENSIONS
from contain.environment.runtime import PROBE_COMMAND
from contain.errors import IntegrityError

Change = Callable[..., Environment]
SOURCE = Path(probe.__file__)


def run_python(environ: dict[str, str], key: bytes = b"k") -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-"], input=python_probe(key), env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    facts: dict[str, dict[str, object]] = json.loads(done.stdout)["facts"]
    return facts


def test_the_probe_is_written_for_python_3_8_and_the_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_the_probe_tells_every_runtime_dimension() -> None:
    found = probe_here((sys.executable,), secret_key=b"k")
    assert set(found.facts) | {name.partition("/")[0] for name in found.missing} == set(RUNTIME_DIMENSIONS)
    assert found.probe == "python"
    assert found.facts["interpreter"]["implementation"] == sys.implementation.name
    assert found.facts["process"]["user id"] == str(os.geteuid())
    assert found.facts["cpu"]["usable count"] == str(len(os.sched_getaffinity(0)))
    assert "pytest" in found.facts["importable"]


def test_two_probes_of_one_place_are_equal(place: Environment) -> None:
    runs = [probe_here((sys.executable,), secret_key=b"k") for _ in range(2)]
    a, b = (with_runtime(place, run.facts, run.missing) for run in runs)
    assert compare(a, b).runtime in {"same", "partly"}
    assert not compare(a, b).differences


def test_settings_of_a_place_show_in_its_facts() -> None:
    environ = {**os.environ, "TZ": "JST-9", "LC_ALL": "C", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "1"}
    found = run_python(environ)
    assert found["time-zone"]["UTC offset in July"] == "+09:00"
    assert found["time-zone"]["TZ"] == "JST-9"
    assert found["locale"]["LC_ALL"] == "C"
    assert found["interpreter"]["hash seed"] == "7"
    assert "optimize" in found["interpreter"]["flags"]  # type: ignore[operator]
    assert "LC_CTYPE" not in found["environment"] or "LC_CTYPE" in os.environ  # not what Python itself sets


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("C.UTF-8", "C.UTF-8"),
        ("LC_CTYPE=C.UTF-8;LC_NUMERIC=C;LC_TIME=C", "C, LC_CTYPE=C.UTF-8"),
        ("LC_CTYPE=a;LC_TIME=b", "a, LC_TIME=b"),
    ],
)
def test_a_mixed_locale_is_shown_by_what_is_special_in_it(text: str, short: str) -> None:
    assert probe._short_locale(text) == short


def test_the_umask_is_read_without_changing_it() -> None:
    before = os.umask(0o027)
    try:
        assert probe.process_facts()["umask"] == "0027"
    finally:
        assert os.umask(before) == 0o027


def test_secrets_leave_a_place_as_keyed_hashes_only() -> None:
    environ = {**os.environ, "API_TOKEN": "hunter2", "HTTPS_PROXY": "http://me:hunter2@proxy:3128/"}
    done = subprocess.run(
        [sys.executable, "-"], input=python_probe(b"k"), env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "hunter2" not in done.stdout
    found = json.loads(done.stdout)["facts"]["environment"]
    assert found["API_TOKEN"] == outside.hide_secret("hunter2", b"k")
    assert found["HTTPS_PROXY"].endswith("@proxy:3128/")


def test_the_key_is_never_on_a_command_line() -> None:
    key = b"\x01\x02very secret"
    assert key.hex() in python_probe(key)
    assert key.hex() not in PROBE_COMMAND


NAMES = {
    "API_TOKEN": True, "DB_PASSWORD": True, "AWS_SECRET_ACCESS_KEY": True, "apiKey": True, "PGPASSWORD": True, "PASS": True,
    "GITHUB_PAT": True, "SENTRY_DSN": True, "SSH_PRIVATE_KEY": True, "mySecret": True, "CREDENTIALS": True,
    "PATH": False, "PWD": False, "KEYBOARD": False, "PASSENGER_COUNT": False, "COMPASS": False, "HOME": False, "GPG_KEY": False,
    "SSH_AUTH_SOCK": False, "MONKEY": False, "LANG": False, "OLDPWD": False,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_secret_are_known_inside_and_outside(name: str) -> None:
    assert outside.looks_secret(name) is NAMES[name]
    assert probe.looks_secret(name) is NAMES[name]


@pytest.mark.parametrize(
    "value", ["", "x", "http://u:p@h/", "http://h/a@b", "https://ghp_0123456789abcdef0123@github.com/x", "é\udce9"]
)
@pytest.mark.parametrize("name", ["API_TOKEN", "URL"])
def test_inside_and_outside_hide_alike(name: str, value: str) -> None:
    assert probe.protect_variable(name, value, b"k") == outside.protect_variable(name, value, b"k")


def test_the_calling_process_keeps_its_locale() -> None:
    import locale

    before = locale.setlocale(locale.LC_ALL)
    probe.locale_facts({"LANG": "C"})
    assert locale.setlocale(locale.LC_ALL) == before


def test_the_shell_probe_gives_what_it_can_and_says_what_it_cannot(place: Environment) -> None:
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC", "API_TOKEN": "hunter2", "TWO": "a\nLINES=b"}
    done = subprocess.run(["sh", "-c", SHELL_PROBE], env=environ, capture_output=True, timeout=60, check=True)
    found = parse_probe(done.stdout, secret_key=b"k")
    assert found.probe == "sh"
    assert found.facts["kernel"]["release"] == os.uname().release
    assert found.facts["locale"] == {"LANG": "C.UTF-8"}
    assert found.facts["time-zone"]["TZ"] == "UTC"
    assert found.facts["environment"]["API_TOKEN"] == outside.hide_secret("hunter2", b"k")
    assert found.facts["environment"]["TWO"] == "a LINES=b"
    assert "LINES" not in found.facts["environment"]
    assert found.facts["interpreter"] == {"implementation": "no Python"}
    diff = compare(place, with_runtime(place, found.facts, found.missing))
    assert not compare(
        with_runtime(place, found.facts, found.missing), with_runtime(place, found.facts, found.missing)
    ).not_comparable
    assert [gap.what for gap in diff.not_comparable if gap.what.startswith("locale")] == [
        "locale effective, preferred encoding"
    ]
    assert any(gap.what.startswith("cpu features") for gap in diff.not_comparable)


def test_the_probe_command_finds_a_python_or_says_that_there_is_none(tmp_path: Path) -> None:
    def run(path: str) -> str:
        return subprocess.run(
            ["/bin/sh", "-c", PROBE_COMMAND],
            input=python_probe(b"k"),
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    (tmp_path / "python3").symlink_to(sys.executable)
    assert json.loads(run(str(tmp_path)))["probe"] == "python"
    (tmp_path / "empty").mkdir()
    assert run(str(tmp_path / "empty")) == "no-python\n"
    old = tmp_path / "old"
    old.mkdir()
    (old / "python").write_text("#!/bin/sh\nexit 1\n")  # as a Python 2 would answer the question for its version
    (old / "python").chmod(0o755)
    assert run(str(old)) == "no-python\n"


def test_the_probe_leaves_no_file_behind(tmp_path: Path) -> None:
    library = tmp_path / "json"  # an import which would be compiled and written beside its source
    library.mkdir()
    (library / "__init__.py").write_text(
        f"import sys\nsys.path.remove({str(tmp_path)!r})\ndel sys.modules['json']\nfrom json import *\nimport json\n"
    )
    before = sorted(tmp_path.rglob("*"))
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run_python({**environ, "PYTHONPATH": str(tmp_path)})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "output",
    [
        b"", b"no-python\n", b"{", b"[]", b'{"schema": 2}', b'{"schema": 1, "facts": [], "missing": {}}',
        b'{"schema": 1, "facts": {"files": {}}, "missing": {}}', b'{"schema": 1, "facts": {"cpu": {"a": 1}}, "missing": {}}',
        b'{"schema": 1, "facts": {}, "missing": {"bad": "x"}}', b'{"schema": 1, "facts": {}, "missing": []}', b"{" * 100_000,
        b"kernel\tsystem\tLinux\n", b"nonsense\nend\n", b"files\ta\tb\nend\n", b"\xff\xfe\nend\n",
    ],
)  # fmt: skip
def test_a_damaged_answer_is_an_integrity_error_and_nothing_else(output: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_probe(output, secret_key=b"k")
    assert caught.value.code == "bad-probe-output"
