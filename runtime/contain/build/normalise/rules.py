"""What package managers leave behind that says nothing about the result, and what is done about it: rules as data.

A rule applies only to what a RUN itself made or changed. Each is safe for what comes later: the package managers work as before,
since what is removed is made again when it is needed, what is emptied is only ever appended to, and what is rewritten stays valid.
apt's package lists stay as they are: a later ``apt-get install`` needs them.

Source of the rules: builds of the Dockerfiles in ``benchmarks/reproducible``, compared; debuerreotype's list of exclusions; the
documentation of the formats.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache

from contain.values import dataclass

RULES_VERSION = 2
"""Part of the cache key of every normalised step: raise it when a rule gives other bytes than before."""


class Action(Enum):
    """``REMOVE``: as if the step had not made it; what a lower layer has there is seen again. ``REWRITE``: see the rewriter.

    ``NAME``: nothing is changed; the rule only names the cause in a comparison.
    """

    REMOVE = "remove"
    REWRITE = "rewrite"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``patterns``: of paths without the leading slash; ``*`` stays within a name, ``**/`` is any depth, a final ``**`` is
    everything below. ``rewriter``: a name in `contain.build.normalise.rewriters.REWRITERS`."""

    cause: str
    patterns: tuple[str, ...]
    action: Action
    rewriter: str = ""


def _log(cause: str, *patterns: str) -> Rule:
    """A log stays, for those who expect it; it says what it said before the step."""
    return Rule(cause=cause, patterns=patterns, action=Action.REWRITE, rewriter="previous-content")


def _cache(cause: str, *patterns: str) -> Rule:
    return Rule(cause=cause, patterns=patterns, action=Action.REMOVE)


def _rewrite(cause: str, rewriter: str, *patterns: str) -> Rule:
    return Rule(cause=cause, patterns=patterns, action=Action.REWRITE, rewriter=rewriter)


def _name(cause: str, *patterns: str) -> Rule:
    return Rule(cause=cause, patterns=patterns, action=Action.NAME)


RULES: tuple[Rule, ...] = (
    # apt and dpkg
    _log("apt-log", "var/log/apt/*.log", "var/log/apt/*.log.*", "var/log/unattended-upgrades/*.log"),
    _log("dpkg-log", "var/log/dpkg.log", "var/log/bootstrap.log"),
    _log("alternatives-log", "var/log/alternatives.log"),
    _log("fontconfig-log", "var/log/fontconfig.log"),
    _cache("apt-cache", "var/cache/apt/*.bin", "var/cache/apt/*.bin.*"),
    _name("apt-lists", "var/lib/apt/lists/**"),
    # dnf, yum, rpm
    _log("dnf-log", "var/log/dnf*.log", "var/log/yum.log", "var/log/hawkey.log", "var/log/zypper.log", "var/log/zypp/history"),
    _cache("dnf-log", "var/lib/dnf/repos/*/countme"),
    _name("rpm-db", "var/lib/rpm/**", "usr/lib/sysimage/rpm/**", "var/lib/dnf/**", "usr/lib/sysimage/libdnf5/**"),
    # apk
    _rewrite("apk-scripts-tar", "tar-times", "lib/apk/db/scripts.tar", "usr/lib/apk/db/scripts.tar"),
    _name("apk-virtual", "etc/apk/world", "lib/apk/db/installed", "usr/lib/apk/db/installed"),
    # caches of the system
    _rewrite("info-dir", "info-dir-order", "usr/share/info/dir"),
    _cache("info-dir", "usr/share/info/dir.old"),
    _cache("ldconfig-aux-cache", "var/cache/ldconfig/aux-cache"),
    _name("fontconfig-cache", "var/cache/fontconfig/**", "**/.cache/fontconfig/**", "usr/share/fonts/**/.uuid"),
    _name("man-db", "var/cache/man/**"),
    _name("journal-catalog", "var/lib/systemd/catalog/database"),
    _log("login-records", "var/log/wtmp", "var/log/btmp", "var/log/lastlog", "var/log/faillog"),
    # languages
    # Not its wheels: a later step may install one without the compiler that made it.
    _cache("pip-cache", *(f"**/.cache/pip/{name}/**" for name in ("http", "http-v2", "selfcheck"))),
    _rewrite("pyc-mtime", "pyc-source-time", "**/*.pyc", "**/*.pyo"),
    _cache("npm-logs", "**/.npm/_logs/**", "**/.npm/_update-notifier-last-checked", "**/_cacache/_lastverified"),
    _rewrite("npm-cache", "npm-cache-entry", "**/_cacache/index-v5/**"),
    _cache("node-compile-cache", "tmp/node-compile-cache/**", "tmp/v8-compile-cache-*/**", "tmp/jiti/**"),
    _cache("java-performance-data", "tmp/hsperfdata_*/**"),
    _rewrite("java-keystore", "java-keystore-times", "etc/ssl/certs/java/cacerts", "**/lib/security/cacerts"),
    _rewrite("conda-history", "conda-history-times", "**/conda-meta/history"),
    _cache(
        "conda-cache", *(f"{place}/pkgs/cache/*" for place in ("opt/*conda*", "root/*conda*", "home/*/*conda*", "root/.conda"))
    ),
    # people's tools
    _cache("wget-hsts", "root/.wget-hsts", "home/*/.wget-hsts"),
    _cache("gnupg-random-seed", "**/.gnupg/random_seed"),
    _cache(
        "shell-history", *(f"{home}/.{name}" for home in ("root", "home/*") for name in ("bash_history", "lesshst", "viminfo"))
    ),
    # identities
    _rewrite("machine-id", "machine-id", "etc/machine-id", "var/lib/dbus/machine-id"),
    _rewrite("shadow-day", "shadow-day", "etc/shadow", "etc/shadow-"),
    _name("database-cluster", "var/lib/postgresql/**", "var/lib/mysql/**", "var/lib/ldap/**"),
    _name("ssh-host-keys", "etc/ssh/ssh_host_*"),
    _name(
        "private-key", "etc/ssl/private/**", "etc/ssl/certs/ssl-cert-snakeoil.pem", "**/*.key", "**/id_rsa*", "**/id_ed25519*"
    ),
    # version control
    _rewrite("git-index", "git-index", "**/.git/index", "**/.git/modules/**/index"),
    _name(
        "git-commit-time", *(f"**/.git/{name}" for name in ("refs/**", "objects/**", "packed-refs", "ORIG_HEAD", "FETCH_HEAD"))
    ),
    _rewrite("git-reflog", "git-reflog", "**/.git/logs/**", "**/.git/modules/**/logs/**"),
)


def translate(pattern: str) -> str:
    """The regular expression of one pattern."""
    if pattern.endswith("/**"):
        return translate(pattern[:-3]) + "/.+"
    text = ""
    for piece in re.split(r"(\*\*/|\*)", pattern):
        if piece == "**/":
            text += "(?:.*/)?"
        elif piece == "*":
            text += "[^/]*"
        else:
            text += re.escape(piece)
    return text


@cache
def _expression(*, changing: bool) -> tuple[re.Pattern[str], dict[str, Rule]]:
    rules = {f"rule{index}": rule for index, rule in enumerate(RULES) if not changing or rule.action is not Action.NAME}
    alternatives = "|".join(
        f"(?P<{name}>{'|'.join(translate(pattern) for pattern in rule.patterns)})" for name, rule in rules.items()
    )
    return re.compile(alternatives, re.DOTALL), rules


def find_rule(path: str, *, changing: bool = False) -> Rule | None:
    """The first rule for a path without its leading slash. ``changing``: leave out those that only name a cause."""
    expression, rules = _expression(changing=changing)
    found = expression.fullmatch(path)
    return None if found is None or found.lastgroup is None else rules[found.lastgroup]
