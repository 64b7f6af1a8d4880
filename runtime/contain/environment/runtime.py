"""Ask a running place for its facts: the probe's text for a Python or a shell, and the reading of its answer.

The text is run by others (the engine inside a container); `probe_here` runs it on this machine. The answer comes from
inside and is not trusted: `parse_probe` raises `IntegrityError` (code ``bad-probe-output``) and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from importlib.resources import files

from contain.annotations import Any
from contain.environment.facts import RUNTIME_DIMENSIONS, Value, frozen, protect_variable
from contain.errors import HostError, IntegrityError
from contain.values import dataclass

PROBE_LIMIT_BYTES = 16 << 20
PROBE_SECONDS = 60

PROBE_COMMAND = (
    "for python in python3 python; do "
    'if command -v "$python" >/dev/null 2>&1 && "$python" -B -c \'import sys; sys.exit(sys.version_info < (3, 8))\' 2>/dev/null; '
    'then exec "$python" -; fi; done; echo no-python'
)
"""For ``sh -c``, with the Python probe on standard input. Prints ``no-python`` where there is none; then `SHELL_PROBE` is next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """What a probe said: `contain.environment.with_runtime` joins it to an `Environment`."""

    probe: str  # python or sh
    facts: Mapping[str, Mapping[str, Value]]
    missing: Mapping[str, str]


def python_probe(secret_key: bytes) -> str:
    """The probe's program text, to be fed to ``python3 -``. It holds the key, so that it never stands on a command line."""
    text = files("contain.environment").joinpath("probe.py").read_text(encoding="utf-8")
    return text.replace('FINGERPRINT_KEY_HEX = ""', f'FINGERPRINT_KEY_HEX = "{secret_key.hex()}"', 1)


# Facts as lines "dimension<TAB>key<TAB>value". Only what every POSIX sh and a few small programs can say; nothing is written.
SHELL_PROBE = r"""
say() { printf '%s\t%s\t%s\n' "$1" "$2" "$(printf '%s' "$3" | tr '\n\t' '  ')"; }
first() { for file in "$@"; do if [ -r "$file" ]; then read -r line <"$file"; printf '%s' "$line"; return 0; fi; done; return 1; }
say kernel system "$(uname -s)"
say kernel release "$(uname -r)"
say kernel build "$(uname -v)"
say cpu architecture "$(uname -m)"
say cpu count "$( (nproc --all || nproc || grep -c '^processor' /proc/cpuinfo) 2>/dev/null | head -n 1)"
say cpu 'usable count' "$( (nproc || grep -c '^processor' /proc/cpuinfo) 2>/dev/null | head -n 1)"
say process umask "$(umask)"
say process 'user id' "$(id -u)"
say process 'group id' "$(id -g)"
say process 'user name' "$(id -un 2>/dev/null || echo '(no entry)')"
say process home "$HOME"
say ulimits nofile "$(ulimit -Sn 2>/dev/null || ulimit -n) (hard $(ulimit -Hn 2>/dev/null || echo unknown))"
say ulimits core "$(ulimit -Sc 2>/dev/null || ulimit -c) (hard $(ulimit -Hc 2>/dev/null || echo unknown))"
link="$(readlink /etc/localtime 2>/dev/null)"
if [ -n "$link" ]; then say time-zone /etc/localtime "$link"
elif [ ! -e /etc/localtime ]; then say time-zone /etc/localtime none; fi
zone="$(first /etc/timezone)" && say time-zone /etc/timezone "$zone"
memory="$(first /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes)" && say limits memory "$memory"
processes="$(first /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max)" && say limits processes "$processes"
say interpreter implementation 'no Python'
while read -r source point kind options rest; do
  case $point in /proc/*|/sys/*) continue;; esac
  flags=; for flag in ro nosuid nodev noexec; do case ",$options," in *",$flag,"*) flags="$flags $flag";; esac; done
  say mounts "$point" "$kind$flags"
done </proc/self/mounts
if [ -r /etc/resolv.conf ]; then while read -r word value; do
  if [ "$word" = nameserver ]; then say dns 'name servers' "$value"; fi; done </etc/resolv.conf; fi
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | sort -u); do
  eval "test \"\${$name+set}\" = set && value=\$$name" || continue
  say environment "$name" "$value"
  case $name in LANG|LANGUAGE|LC_*) say locale "$name" "$value";; TZ) say time-zone TZ "$value";; esac
done
echo end
"""
_SHELL_LISTS = frozenset({("dns", "name servers")})
_SHELL_TELLS_A_PART = ("kernel", "cpu", "process", "ulimits", "limits", "time-zone", "locale", "mounts", "dns", "interpreter")
_SHELL_MISSING = "the place has no Python, and a shell cannot tell"


def _bad(why: str) -> IntegrityError:
    return IntegrityError(f"the environment probe's answer is damaged: {why}", code="bad-probe-output")


def parse_probe(output: bytes, *, secret_key: bytes) -> RuntimeFacts:
    """The facts in the output of either probe. ``secret_key`` hides what the shell could not hide itself."""
    if len(output) > PROBE_LIMIT_BYTES:
        raise _bad(f"longer than {PROBE_LIMIT_BYTES} bytes")
    text = output.decode("utf-8", "replace")
    return _parse_json(text) if text.lstrip().startswith("{") else _parse_lines(text, secret_key)


def check_facts(found: Any, allowed: Sequence[str]) -> dict[str, Mapping[str, Value]]:
    """Dimensions with texts and lists of texts from untrusted JSON; ValueError names what is wrong."""
    if not isinstance(found, dict):
        raise ValueError("facts must be an object")
    result: dict[str, Mapping[str, Value]] = {}
    for dimension, values in found.items():
        if dimension not in allowed or not isinstance(values, dict):
            raise ValueError(f"unknown or malformed dimension {dimension[:40]!r}")
        result[dimension] = frozen({key: _check_value(value) for key, value in values.items()})
    return result


def _check_value(value: Any) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError("a fact must be a text or a list of texts")


def _parse_json(text: str) -> RuntimeFacts:
    try:
        value = json.loads(text)
        if value.get("schema") != 1:
            raise ValueError("not schema 1")
        missing = value.get("missing")
        if not isinstance(missing, dict) or not all(isinstance(why, str) for why in missing.values()):
            raise ValueError("missing must hold texts")
        if not all(name.partition("/")[0] in RUNTIME_DIMENSIONS for name in missing):
            raise ValueError("missing names an unknown dimension")
        facts = check_facts(value.get("facts"), RUNTIME_DIMENSIONS)
    except (ValueError, RecursionError, AttributeError) as error:
        raise _bad(str(error)[:200]) from error
    return RuntimeFacts(probe="python", facts=frozen(facts), missing=frozen(missing))


def _parse_lines(text: str, secret_key: bytes) -> RuntimeFacts:
    lines = text.split("\n")
    if "end" not in lines:
        raise _bad("it has no end")
    facts: dict[str, dict[str, Value]] = {"environment": {}}
    for line in lines[: lines.index("end")]:
        dimension, tab, rest = line.partition("\t")
        key, second_tab, value = rest.partition("\t")
        if not tab or not second_tab or dimension not in RUNTIME_DIMENSIONS:
            raise _bad(f"line {line[:60]!r}")
        if dimension == "environment":
            value = protect_variable(key, value, secret_key)
        if dimension == "limits" and (value == "max" or (value.isdecimal() and len(value) < 25 and int(value) >= 1 << 62)):
            value = "unlimited"
        if (dimension, key) in _SHELL_LISTS:
            before = facts.setdefault(dimension, {}).get(key, ())
            facts[dimension][key] = (*(before if isinstance(before, tuple) else ()), value)
        else:
            facts.setdefault(dimension, {})[key] = value
    # The shell gives some keys of a dimension only; the others are unknown here, never equal.
    for dimension in _SHELL_TELLS_A_PART:
        facts.setdefault(dimension, {})
    facts["sys-path"], facts["importable"] = {}, {}
    missing = {f"{dimension}/*": _SHELL_MISSING for dimension in _SHELL_TELLS_A_PART}
    return RuntimeFacts(
        probe="sh", facts=frozen({name: frozen(found) for name, found in facts.items()}), missing=frozen(missing)
    )


def probe_here(python: Sequence[str], *, secret_key: bytes, environ: Mapping[str, str] | None = None) -> RuntimeFacts:
    """Run the probe with this machine's ``python`` (for example ``(sys.executable,)``). HostError if it cannot run."""
    try:
        done = subprocess.run(
            [*python, "-"],
            input=python_probe(secret_key).encode(),
            capture_output=True,
            timeout=PROBE_SECONDS,
            env=dict(os.environ if environ is None else environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"the environment probe did not run with {python[0]}: {error}", code="probe-failed") from error
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-400:]
        raise HostError(f"the environment probe failed with {python[0]}: {tail}", code="probe-failed")
    return parse_probe(done.stdout, secret_key=secret_key)
