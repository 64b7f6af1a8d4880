"""The runtime probe: one file, standard library only, Python 3.8 or later, run *inside* a place to say how it is there.

    python3 - < probe.py > facts.json

It reads and never writes a file, starts no process, opens no connection. Its output is one JSON object:
``{"schema": 1, "probe": "python", "facts": {dimension: {key: text or list of texts}}, "missing": {dimension or dimension/key: why}}``.
Variables whose names look secret are put out as keyed hashes. `contain.environment.runtime` reads the output; the rules
for secrets are repeated here, because nothing else of the project exists inside (a test holds the two equal).
"""

# ruff: noqa: UP006, UP007, UP035

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # an import may not leave a .pyc in the place that is looked at

import contextlib
import hashlib
import hmac
import json
import locale
import os
import re
import struct
import sysconfig
import time
from typing import Any, Callable, Dict, List, Mapping, Union  # noqa: TID251 - it stands alone

# The outside replaces this line to give its key; without one, hashes of this run compare with nothing else.
FINGERPRINT_KEY_HEX = ""

# Evaluated at run time, so spelt for Python 3.8.
Facts = Dict[str, Union[str, List[str]]]

SECRET_WORDS = frozenset(
    {
        *("AUTH", "COOKIE", "CRED", "CREDS", "CREDENTIAL", "CREDENTIALS", "DSN", "KEY", "KEYS", "PASS", "PASSWD", "PASSWORD"),
        *("PASSPHRASE", "PAT", "PIN", "PW", "PWORD", "SECRET", "SECRETS", "SIGNATURE", "TOKEN", "TOKENS"),
    }
)
SECRET_STEMS = ("PASSW", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "ACCESSKEY", "PRIVATEKEY", "CREDENTIAL")
NOT_SECRET = frozenset({"SSH_AUTH_SOCK", "GPG_KEY"})
URL_CREDENTIALS = re.compile(r"(?<=://)([^/@\s:]*:[^/@\s]*|[^/@\s:]{16,})(?=@)")


class NotReadable(Exception):
    """A fact which this place does not let us read."""


def looks_secret(name: str) -> bool:
    """Whether a variable of this name probably holds a secret."""
    if name in NOT_SECRET:
        return False
    words = re.split(r"[^A-Z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper())
    joined = "".join(words)
    return not SECRET_WORDS.isdisjoint(words) or any(stem in joined for stem in SECRET_STEMS)


def protect_variable(name: str, value: str, key: bytes) -> str:
    """The value, or a keyed hash where it is or holds a secret."""
    label = "hmac-sha256:" + hashlib.sha256(b"contain fingerprint key\0" + key).hexdigest()[:8] + ":"

    def hidden(secret: str) -> str:
        return label + hmac.new(key, secret.encode("utf-8", "surrogateescape"), "sha256").hexdigest()

    if looks_secret(name) and value:
        return hidden(value)
    return URL_CREDENTIALS.sub(lambda match: hidden(match.group())[:33], value)


def read_text(path: str, limit_bytes: int = 1 << 20) -> str:
    """A file's text; `NotReadable` with the reason otherwise."""
    try:
        with open(path, "rb") as stream:
            return stream.read(limit_bytes).decode("utf-8", "replace")
    except OSError as error:
        raise NotReadable(f"{path}: {error.strerror or error}") from error


def optional_text(path: str) -> str:
    """A file's text, empty if it cannot be read."""
    try:
        return read_text(path)
    except NotReadable:
        return ""


def locale_archive_names(data: bytes) -> list[str]:
    """The locales in a glibc locale archive. Source: glibc, ``locale/locarchive.h``. Damaged data give what was understood."""
    names: list[str] = []
    try:
        magic, _, table, _, slots = struct.unpack_from("=5I", data)
        if magic != 0xDE020109:
            return []
        for slot in range(min(slots, 100_000)):
            _, name_offset, record_offset = struct.unpack_from("=3I", data, table + 12 * slot)
            if record_offset and 0 < name_offset < len(data):
                end = data.find(b"\0", name_offset, name_offset + 256)
                names.append(data[name_offset:end].decode("utf-8", "replace"))
    except struct.error:
        pass
    return sorted({name for name in names if name})


def environment_variables(environ: Mapping[str, str], key: bytes) -> Facts:
    """The variables that a new process gets here."""
    return {name: protect_variable(name, value, key) for name, value in environ.items() if name}


def initial_environment() -> dict[str, str]:
    """What this process was started with: Python itself may have set LC_CTYPE since (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            pairs = [item.partition(b"=") for item in stream.read().split(b"\0")]
        return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}
    except OSError:
        return dict(os.environ)


def locale_facts(environ: Mapping[str, str]) -> Facts:
    """What setlocale(3) makes of the variables. The locale of the calling process is put back."""
    facts: Facts = {name: value for name, value in environ.items() if name in ("LANG", "LANGUAGE") or name.startswith("LC_")}
    before = locale.setlocale(locale.LC_ALL)
    try:
        try:
            facts["effective"] = _short_locale(locale.setlocale(locale.LC_ALL, ""))
        except locale.Error as error:
            facts["effective"] = "refused: " + str(error)
        facts["preferred encoding"] = locale.getpreferredencoding(False).lower()  # spelt UTF-8 or utf-8
    finally:
        locale.setlocale(locale.LC_ALL, before)
    facts["file system encoding"] = sys.getfilesystemencoding()
    facts["standard output encoding"] = str(getattr(sys.stdout, "encoding", ""))
    return facts


def _short_locale(text: str) -> str:
    """``LC_CTYPE=C.UTF-8;LC_NUMERIC=C;...`` as ``C, LC_CTYPE=C.UTF-8``: the most common one and what differs from it."""
    pairs = [item.partition("=") for item in text.split(";")]
    if len(pairs) < 2:
        return text
    names = [value for _, _, value in pairs]
    common = max(sorted(set(names)), key=names.count)
    return ", ".join([common, *(f"{category}={value}" for category, _, value in pairs if value != common)])


def time_zone_facts(environ: Mapping[str, str]) -> Facts:
    """The zone in force, by its source and by two offsets that do not depend on today."""
    facts: Facts = {"TZ": environ["TZ"]} if "TZ" in environ else {}
    try:
        facts["/etc/localtime"] = os.readlink("/etc/localtime")
    except OSError:
        try:
            with open("/etc/localtime", "rb") as stream:
                facts["/etc/localtime"] = "file sha256:" + hashlib.sha256(stream.read(1 << 20)).hexdigest()[:12]
        except OSError:
            facts["/etc/localtime"] = "none"
    named = optional_text("/etc/timezone").strip()
    if named:
        facts["/etc/timezone"] = named
    facts["names"] = list(time.tzname)
    for month, moment in (("January", 1704067200), ("July", 1719792000)):
        offset = time.localtime(moment).tm_gmtoff
        minutes = abs(offset) // 60
        facts["UTC offset in " + month] = f"{'-' if offset < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
    database = "none"
    for directory in ("/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo"):
        if os.path.isdir(directory):
            head = optional_text(directory + "/tzdata.zi")[:80].partition("\n")[0]
            version = optional_text(directory + "/+VERSION").strip() or head.replace("# version", "").strip()
            database = version or "present, version unknown"
            break
    facts["zone database"] = database
    return facts


def interpreter_facts(environ: Mapping[str, str]) -> Facts:
    """Which Python answers here and how it is set up."""
    facts: Facts = {
        "implementation": sys.implementation.name,
        "version": sys.version.replace("\n", " "),
        "executable": sys.executable or "",
        "prefix": sys.prefix,
        "base prefix": sys.base_prefix,
        "flags": [name for name in dir(sys.flags) if _flag_is_set(name)],
        "default encoding": sys.getdefaultencoding(),
        "hash seed": environ.get("PYTHONHASHSEED", "random") or "random",
        "byte order": sys.byteorder,
        "pointer bits": str(struct.calcsize("P") * 8),
        "extension ABI": str(sysconfig.get_config_var("SOABI") or ""),
    }
    try:
        facts["libc"] = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        facts["libc"] = "not glibc"
    try:
        import ssl

        facts["OpenSSL"] = ssl.OPENSSL_VERSION
        paths = ssl.get_default_verify_paths()
        facts["certificate file"] = _certificates(paths.cafile or paths.openssl_cafile)
    except ImportError:
        facts["OpenSSL"] = "no ssl module"
    try:
        import sqlite3

        facts["SQLite"] = sqlite3.sqlite_version
    except ImportError:
        facts["SQLite"] = "no sqlite3 module"
    return facts


def _flag_is_set(name: str) -> bool:
    # hash_randomization has its own fact; the rest of dir() are methods
    if name.startswith(("_", "n_")) or name in ("count", "index", "hash_randomization", "int_max_str_digits", "gil"):
        return False
    value = getattr(sys.flags, name)
    return bool(value) and not callable(value) and value != -1


def _certificates(path: str | None) -> str:
    try:
        with open(path or "", "rb") as stream:
            return f"{path} sha256:{hashlib.sha256(stream.read(8 << 20)).hexdigest()[:12]}"
    except OSError:
        return f"{path or ''} (none)"


def sys_path_facts() -> Facts:
    """Where imports look, in order; the probe's own directory is left out."""
    own = os.path.dirname(os.path.abspath(globals().get("__file__") or "")) if globals().get("__file__") else ""
    return {"sys.path": [entry for entry in sys.path if entry and entry != own]}


def importable_facts() -> Facts:
    """Each distribution that ``importlib.metadata`` finds first on ``sys.path``."""
    from importlib.metadata import distributions

    facts: Facts = {}
    for found in distributions():
        try:
            name, version = found.metadata["Name"], found.version
        except Exception:  # noqa: S112 - damaged metadata of somebody's package must not end the probe
            continue
        if name and version:
            facts.setdefault(re.sub(r"[-_.]+", "-", name).lower(), f"{version} ({found.locate_file('')})")
    return facts


def process_facts() -> Facts:
    """Who this process is and what the kernel lets it do."""
    facts: Facts = {
        "user id": str(os.geteuid()),
        "group id": str(os.getegid()),
        "groups": [str(group) for group in sorted(set(os.getgroups()))],
        "home": os.path.expanduser("~"),
    }
    try:
        import pwd

        facts["user name"] = pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        facts["user name"] = "(no entry)"
    status = dict(line.partition(":")[::2] for line in read_text("/proc/self/status").split("\n") if ":" in line)
    for key, field in (
        ("umask", "Umask"),
        ("effective capabilities", "CapEff"),
        ("bounding capabilities", "CapBnd"),
        ("no new privileges", "NoNewPrivs"),
        ("seccomp mode", "Seccomp"),
    ):
        if field in status:
            facts[key] = status[field].strip()
    label = optional_text("/proc/self/attr/current").strip("\0\n ")
    facts["security label"] = label or "none"
    return facts


def ulimit_facts() -> Facts:
    """Soft and hard resource limits. Source: getrlimit(2)."""
    import resource

    def shown(value: int) -> str:
        return "unlimited" if value in (-1, resource.RLIM_INFINITY) else str(value)

    facts: Facts = {}
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":
            soft, hard = resource.getrlimit(getattr(resource, name))
            facts[name[7:].lower()] = f"{shown(soft)} (hard {shown(hard)})"
    return facts


# limit -> (controller, file in version 2, file in version 1)
CGROUP_FILES = (
    ("memory", "memory", "memory.max", "memory.limit_in_bytes"),
    ("swap", "memory", "memory.swap.max", "memory.memsw.limit_in_bytes"),
    ("cpu", "cpu", "cpu.max", "cpu.cfs_quota_us"),
    ("processes", "pids", "pids.max", "pids.max"),
)


def unescape_mount(text: str) -> str:
    """A path of mountinfo: ``\\040`` is a space. Source: proc(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def mount_table() -> list[tuple[str, str, str, str, str]]:
    """(root, mount point, options, type, super options) of every mount of this process."""
    rows = []
    for line in read_text("/proc/self/mountinfo", 8 << 20).split("\n"):
        left, dash, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6 and len(tail) >= 3:
            rows.append((unescape_mount(fields[3]), unescape_mount(fields[4]), fields[5], tail[0], tail[2]))
    return rows


def cgroup_directories(controller: str) -> tuple[int, list[str]]:
    """(version, directories from this process's cgroup up to the highest that can be seen) of a controller."""
    groups = [line.split(":", 2) for line in read_text("/proc/self/cgroup").split("\n") if line.count(":") >= 2]
    for version in (1, 2):
        for _, names, path in groups:
            if (controller in names.split(",")) if version == 1 else names == "":
                for root, point, _, kind, options in mount_table():
                    if kind != ("cgroup" if version == 1 else "cgroup2"):
                        continue
                    if version == 1 and controller not in options.split(","):
                        continue
                    below = os.path.relpath(path, root) if path.startswith(root.rstrip("/") + "/") or path == root else "."
                    directory = os.path.normpath(os.path.join(point, below))
                    found = []
                    while directory.startswith(point):
                        found.append(directory)
                        if directory == point:
                            break
                        directory = os.path.dirname(directory)
                    return version, found
    raise NotReadable(f"no cgroup file system with the {controller} controller is mounted here")


def limit_facts(missing: dict[str, str]) -> Facts:
    """The tightest cgroup limits that hold for this process, and the machine's memory."""
    facts: Facts = {}
    for name, controller, file_two, file_one in CGROUP_FILES:
        try:
            version, directories = cgroup_directories(controller)
        except NotReadable as error:
            missing["limits/" + name] = str(error)
            continue
        found = [_one_limit(directory, file_one if version == 1 else file_two) for directory in directories]
        limits = [limit for limit in found if limit is not None]
        facts[name] = (f"{min(limits):g}" if name == "cpu" else str(int(min(limits)))) if limits else "unlimited"
    match = re.search(r"^MemTotal:\s*(\d+)", optional_text("/proc/meminfo"), re.MULTILINE)
    if match:
        facts["machine memory"] = f"{int(match.group(1)) / (1 << 20):.1f} GiB"
    return facts


def _one_limit(directory: str, name: str) -> float | None:
    words = optional_text(os.path.join(directory, name)).split()
    if not words or words[0] in ("max", "-1"):
        return None
    try:
        value = int(words[0])
        if name == "cpu.max":
            return value / int(words[1])
        if name == "cpu.cfs_quota_us":
            return value / int(optional_text(os.path.join(directory, "cpu.cfs_period_us")) or 100_000)
    except (ValueError, IndexError, ZeroDivisionError):
        return None
    return value if value < 1 << 62 else None  # version 1 writes a huge number for "no limit"


def cpu_facts() -> Facts:
    """Processors as the system and as this process see them."""
    text = optional_text("/proc/cpuinfo")
    features = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    model = re.search(r"^(?:model name|CPU part|Processor)\s*:\s*(.*)$", text, re.MULTILINE)
    facts: Facts = {
        "architecture": os.uname().machine,
        "count": str(os.cpu_count() or 0),
        "model": model.group(1).strip() if model else "unknown",
        "features": sorted(features.group(1).split()) if features else [],
    }
    with contextlib.suppress(AttributeError, OSError):
        facts["usable count"] = str(len(os.sched_getaffinity(0)))
    return facts


SETTINGS = (
    "kernel/randomize_va_space",
    "kernel/pid_max",
    "vm/overcommit_memory",
    "vm/max_map_count",
    "fs/file-max",
    "fs/inotify/max_user_watches",
    "net/core/somaxconn",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv4/ip_unprivileged_port_start",
)


def kernel_facts() -> Facts:
    """The kernel and those of its settings which programs notice. The host name is not a fact that is compared."""
    name = os.uname()
    facts: Facts = {"system": name.sysname, "release": name.release, "build": name.version}
    for setting in SETTINGS:
        value = optional_text("/proc/sys/" + setting).strip()
        if value:
            facts[setting.replace("/", ".")] = value
    modules = optional_text("/sys/kernel/security/lsm").strip()
    if modules:
        facts["security modules"] = modules.split(",")
    return facts


MOUNT_FLAGS = ("ro", "nosuid", "nodev", "noexec")


def mount_facts() -> Facts:
    """Mount point -> type and the flags that programs notice. What is mounted over single files of /proc and /sys is left out."""
    facts: Facts = {}
    for _, point, options, kind, super_options in mount_table():
        if point.startswith(("/proc/", "/sys/")):
            continue
        flags = [flag for flag in options.split(",") if flag in MOUNT_FLAGS]
        if "ro" in super_options.split(",") and "ro" not in flags:
            flags.insert(0, "ro")
        facts[point] = " ".join([kind, *flags])
    try:
        shared = os.statvfs("/dev/shm")
        facts["size of /dev/shm"] = f"{shared.f_blocks * shared.f_frsize >> 20} MiB"
    except OSError:
        pass
    return facts


def dns_facts() -> Facts:
    """How names are looked up."""
    servers: list[str] = []
    facts: Facts = {}
    for line in optional_text("/etc/resolv.conf").split("\n"):
        words = line.split("#")[0].split()
        if len(words) > 1 and words[0] == "nameserver":
            servers.append(words[1])
        elif len(words) > 1 and words[0] in ("search", "options"):
            facts[words[0]] = words[1:]
    facts["name servers"] = servers
    order = re.search(r"^hosts:\s*(.*)$", optional_text("/etc/nsswitch.conf"), re.MULTILINE)
    if order:
        facts["hosts order"] = order.group(1).strip()
    return facts


def collect(environ: Mapping[str, str], key: bytes) -> dict[str, Any]:
    """Every fact; a collector that fails is named in ``missing``, the others go on."""
    missing: dict[str, str] = {}
    collectors: tuple[tuple[str, Callable[[], Facts]], ...] = (
        ("environment", lambda: environment_variables(environ, key)),
        ("locale", lambda: locale_facts(environ)),
        ("time-zone", lambda: time_zone_facts(environ)),
        ("interpreter", lambda: interpreter_facts(environ)),
        ("sys-path", sys_path_facts),
        ("importable", importable_facts),
        ("process", process_facts),
        ("limits", lambda: limit_facts(missing)),
        ("ulimits", ulimit_facts),
        ("cpu", cpu_facts),
        ("kernel", kernel_facts),
        ("mounts", mount_facts),
        ("dns", dns_facts),
    )
    facts: dict[str, Facts] = {}
    for name, collector in collectors:
        try:
            facts[name] = collector()
        except NotReadable as error:
            missing[name] = str(error)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
    return {"schema": 1, "probe": "python", "facts": facts, "missing": missing}


def main() -> None:
    """Print the facts of this place."""
    key = bytes.fromhex(FINGERPRINT_KEY_HEX) or os.urandom(16)
    sys.stdout.write(json.dumps(collect(initial_environment(), key), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
