"""What is known to differ between two equal environments: tables as data. `compare` collapses it by name and count, never silently.

Source: the field's lists of nondeterminism in image builds (debuerreotype's ``.tar-exclude`` and fixup, diffoci, reprotest).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRule:
    """Paths that say nothing about behaviour. ``patterns``: whole-path globs in which ``*`` also matches ``/``."""

    name: str
    patterns: tuple[str, ...]
    reason: str


NOISE: tuple[NoiseRule, ...] = (
    NoiseRule(
        name=".pyc",
        patterns=("*/__pycache__", "*/__pycache__/*", "*.pyc"),
        reason="compiled Python holds times and paths; Python makes it again from the source",
    ),
    NoiseRule(
        name="apt and dpkg logs",
        patterns=(
            "/var/log/dpkg.log*",
            "/var/log/apt",
            "/var/log/apt/*",
            "/var/log/alternatives.log*",
            "/var/log/bootstrap.log",
        ),
        reason="they record when packages were installed",
    ),
    NoiseRule(
        name="other logs",
        patterns=(
            "/var/log/*.log",
            "/var/log/*.log.*",
            "/var/log/lastlog",
            "/var/log/faillog",
            "/var/log/btmp*",
            "/var/log/wtmp*",
            "/var/log/journal*",
            "/root/.npm/_logs*",
        ),
        reason="logs say what happened, not how the place is",
    ),
    NoiseRule(
        name="apt caches and lists",
        patterns=("/var/cache/apt", "/var/cache/apt/*", "/var/lib/apt/lists", "/var/lib/apt/lists/*", "/var/lib/apt/periodic*"),
        reason="downloaded indexes; only the next installation reads them",
    ),
    NoiseRule(
        name="dpkg backups and locks",
        patterns=(
            "/var/lib/dpkg/*-old",
            "/var/lib/dpkg/lock*",
            "/var/lib/dpkg/triggers/*",
            "/var/lib/apt/daily_lock",
            "/var/backups/*",
            "/etc/passwd-",
            "/etc/shadow-",
            "/etc/group-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
            "/etc/.pwd.lock",
            "/var/lib/apt/extended_states",
        ),
        reason="earlier copies and locks of package and account databases",
    ),
    NoiseRule(
        name="debconf database",
        patterns=("/var/cache/debconf/*",),
        reason="answers to installation questions, with times and order",
    ),
    NoiseRule(
        name="ldconfig cache",
        patterns=("/var/cache/ldconfig*", "/etc/ld.so.cache"),
        reason="an index of libraries, which are compared themselves; the auxiliary cache holds inode numbers",
    ),
    NoiseRule(
        name="machine id",
        patterns=("/etc/machine-id", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed", "/etc/hostid"),
        reason="random on each machine",
    ),
    NoiseRule(
        name="host name and resolver files",
        patterns=("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/.dockerenv", "/run/.containerenv", "/etc/mtab"),
        reason="written for each container; the running place's name servers are compared as facts",
    ),
    NoiseRule(
        name="apk database bookkeeping",
        patterns=(
            "/lib/apk/db/scripts.tar*",
            "/usr/lib/apk/db/scripts.tar*",
            "/lib/apk/db/triggers",
            "/usr/lib/apk/db/triggers",
            "/var/cache/apk*",
            "/lib/apk/db/lock",
        ),
        reason="archives with times, indexes and locks",
    ),
    NoiseRule(
        name="pip, npm and user caches",
        patterns=(
            "/root/.cache",
            "/root/.cache/*",
            "/home/*/.cache",
            "/home/*/.cache/*",
            "/root/.npm",
            "/root/.npm/_cacache*",
            "/root/.npm/_update*",
        ),
        reason="downloads kept for the next installation",
    ),
    NoiseRule(
        name="installation records",
        patterns=("*.dist-info/RECORD", "*.dist-info/REQUESTED", "*.dist-info/INSTALLER", "*.dist-info/direct_url.json"),
        reason="who installed a package and hashes of its files, which are compared themselves",
    ),
    NoiseRule(
        name="font, manual and icon caches",
        patterns=(
            "/var/cache/fontconfig*",
            "/var/cache/man*",
            "*/gdk-pixbuf-2.0/*/loaders.cache",
            "*/icon-theme.cache",
            "/var/lib/systemd/catalog/database",
        ),
        reason="indexes made from files that are compared themselves",
    ),
    NoiseRule(
        name="temporary files",
        patterns=("/tmp/*", "/var/tmp/*", "/run/*", "/var/lock*"),
        reason="left over from the build or of the running place",
    ),
    NoiseRule(
        name="shell and editor history",
        patterns=(
            "/root/.*_history",
            "/home/*/.*_history",
            "/root/.wget-hsts",
            "/root/.lesshst",
            "/root/.viminfo",
            "*/.gnupg/random_seed",
        ),
        reason="traces of people, not of the environment",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableNoise:
    """Variables that differ between two shells of the same place."""

    name: str
    pattern: str
    reason: str


VARIABLE_NOISE: tuple[VariableNoise, ...] = (
    VariableNoise(
        name="session variables",
        pattern=r"HOSTNAME|PWD|OLDPWD|SHLVL|_|COLUMNS|LINES|WINDOWID|TERM_SESSION_ID|TERM_PROGRAM.*|"
        r"SSH_(?:CLIENT|CONNECTION|TTY|AUTH_SOCK|AGENT_PID)|XDG_(?:SESSION|RUNTIME|SEAT|VTNR).*|DBUS_SESSION_BUS_ADDRESS|DISPLAY|TMUX.*|STY|"
        r"INVOCATION_ID|JOURNAL_STREAM|PYTEST_CURRENT_TEST|PYTEST_XDIST_.*|PYTEST_VERSION",
        reason="made anew for each session or test",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoveredRule:
    """A file whose content is also read as facts: it is not reported again when those facts already show a difference."""

    patterns: tuple[str, ...]
    dimensions: tuple[str, ...]


COVERED: tuple[CoveredRule, ...] = (
    CoveredRule(patterns=("/etc/passwd", "/etc/shadow", "/etc/subuid"), dimensions=("users",)),
    CoveredRule(patterns=("/etc/group", "/etc/gshadow", "/etc/subgid"), dimensions=("groups",)),
    CoveredRule(
        patterns=("/etc/os-release", "/usr/lib/os-release", "/etc/debian_version", "/etc/alpine-release"),
        dimensions=("os-release",),
    ),
    CoveredRule(patterns=("/var/lib/dpkg/*",), dimensions=("dpkg",)),
    CoveredRule(patterns=("/lib/apk/db/*", "/usr/lib/apk/db/*", "/etc/apk/world"), dimensions=("apk",)),
    CoveredRule(patterns=("/usr/lib/locale", "/usr/lib/locale/*"), dimensions=("locales",)),
    CoveredRule(patterns=("/etc/localtime", "/etc/timezone"), dimensions=("time-zone",)),
)


def _compiled(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns), re.DOTALL)


_FILE_NOISE = tuple((_compiled(rule.patterns), rule) for rule in NOISE)
_VARIABLES = tuple((re.compile(rule.pattern), rule) for rule in VARIABLE_NOISE)
_COVERED = tuple((_compiled(rule.patterns), rule) for rule in COVERED)


def file_noise(path: str) -> NoiseRule | None:
    """The first rule that calls this path noise."""
    return next((rule for pattern, rule in _FILE_NOISE if pattern.fullmatch(path)), None)


def variable_noise(name: str) -> VariableNoise | None:
    """The first rule that calls this variable noise."""
    return next((rule for pattern, rule in _VARIABLES if pattern.fullmatch(name)), None)


def covering_dimensions(path: str) -> tuple[str, ...]:
    """The dimensions whose facts are read from this file."""
    return next((rule.dimensions for pattern, rule in _COVERED if pattern.fullmatch(path)), ())
