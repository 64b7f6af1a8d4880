"""Why two builds of one Dockerfile differ: the known causes, as data, each with an identifier that never changes and a remedy.

A cause whose files `contain.build.normalise.rules` mends says so in ``mended``. The rest can only be named: what is random on
purpose (keys, password salts) or decided by a program that nobody here may second-guess.
"""

from __future__ import annotations

from types import MappingProxyType

from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """``identifier`` is stable. ``title``: what happens. ``remedy``: what the author of a Dockerfile can do.

    ``mended``: the normalisation of a layer takes care of it, so it is only seen with ``--no-reproducible``.
    """

    identifier: str
    title: str
    remedy: str
    mended: bool = False


_MEND = "build with --reproducible (the default)"

_ALL = (
    # Times and order of the archive itself.
    Cause(
        identifier="mtime",
        title="modification times older than SOURCE_DATE_EPOCH differ",
        remedy="set the time with touch -d, or do not",
    ),
    Cause(
        identifier="ownership-or-mode",
        title="the same content with another mode, owner or attribute",
        remedy="set them: RUN chmod, install -m, COPY --chmod, --chown",
    ),
    Cause(
        identifier="file-order",
        title="the same lines in another order: directories are listed in the order of the file system",
        remedy="sort: find ... | sort, ls -1, LC_ALL=C sort",
    ),
    Cause(identifier="package-versions", title="other versions of packages", remedy="pin versions, or use a lock file"),
    Cause(
        identifier="apt-lists",
        title="apt's package lists: what the mirror offered at that moment",
        remedy="end the RUN with rm -rf /var/lib/apt/lists/*",
    ),
    # Logs and caches of package managers.
    Cause(identifier="apt-cache", title="apt's binary caches hold times of the package lists", remedy=_MEND, mended=True),
    Cause(identifier="apt-log", title="apt's logs hold the time of each installation", remedy=_MEND, mended=True),
    Cause(identifier="dpkg-log", title="dpkg's log holds the time of each installation", remedy=_MEND, mended=True),
    Cause(identifier="alternatives-log", title="update-alternatives logs the time", remedy=_MEND, mended=True),
    Cause(identifier="fontconfig-log", title="fontconfig's package logs the time", remedy=_MEND, mended=True),
    Cause(identifier="dnf-log", title="dnf and rpm log times", remedy=_MEND, mended=True),
    Cause(identifier="login-records", title="wtmp, btmp, lastlog and faillog hold times of logins", remedy=_MEND, mended=True),
    Cause(identifier="ldconfig-aux-cache", title="ldconfig remembers inode numbers and times", remedy=_MEND, mended=True),
    Cause(
        identifier="fontconfig-cache",
        title="font caches hold times of directories (old versions)",
        remedy="end the RUN with rm -rf /var/cache/fontconfig/*",
    ),
    Cause(
        identifier="man-db",
        title="the manual's index holds times of files (old versions)",
        remedy="end the RUN with rm -rf /var/cache/man/*",
    ),
    Cause(
        identifier="journal-catalog",
        title="systemd's message catalogue holds a time and an identifier (old versions)",
        remedy="end the RUN with rm -rf /var/lib/systemd/catalog/database",
    ),
    Cause(
        identifier="info-dir",
        title="the Info system's menu has its entries in the order of a directory",
        remedy=_MEND,
        mended=True,
    ),
    Cause(identifier="pip-cache", title="pip's cache holds answers of the index with their dates", remedy=_MEND, mended=True),
    Cause(identifier="npm-logs", title="npm's logs and the time of its last look for a new version", remedy=_MEND, mended=True),
    Cause(identifier="npm-cache", title="npm's cache index holds times and the dates of answers", remedy=_MEND, mended=True),
    Cause(identifier="node-compile-cache", title="compiled JavaScript of one process and machine", remedy=_MEND, mended=True),
    Cause(identifier="java-performance-data", title="the Java machine's counters of one process", remedy=_MEND, mended=True),
    Cause(identifier="conda-history", title="conda's history holds the time of each transaction", remedy=_MEND, mended=True),
    Cause(identifier="conda-cache", title="conda's cache of package indexes", remedy=_MEND, mended=True),
    Cause(identifier="apk-scripts-tar", title="apk's archive of scripts holds times", remedy=_MEND, mended=True),
    Cause(
        identifier="apk-virtual",
        title="apk names a virtual package's version after the time",
        remedy="name a version: apk add -t .build-deps=0 ...",
    ),
    Cause(
        identifier="rpm-db",
        title="the rpm and dnf databases hold times of installation, and rows in the order of work",
        remedy="rpm 4.18 and dnf 5 honour SOURCE_DATE_EPOCH, which contain sets; remove /var/lib/dnf/history* at the end of the RUN",
    ),
    Cause(identifier="wget-hsts", title="wget remembers times of answers", remedy=_MEND, mended=True),
    Cause(identifier="gnupg-random-seed", title="GnuPG keeps a random seed", remedy=_MEND, mended=True),
    Cause(identifier="shell-history", title="a shell's or an editor's history", remedy=_MEND, mended=True),
    # Identities.
    Cause(identifier="machine-id", title="a random identifier of the machine", remedy=_MEND, mended=True),
    Cause(identifier="shadow-day", title="the day of an account's last password change is today", remedy=_MEND, mended=True),
    Cause(
        identifier="password-salt",
        title="a password was hashed with a random salt",
        remedy="give the hash: usermod -p or chpasswd -e with the output of openssl passwd -6 -salt",
    ),
    Cause(
        identifier="ssh-host-keys",
        title="ssh host keys are random, and an image must not hold any: everybody who has it would have them",
        remedy="RUN ... && rm /etc/ssh/ssh_host_*; make them when the container starts: ssh-keygen -A",
    ),
    Cause(
        identifier="private-key",
        title="a key or certificate was made with random numbers",
        remedy="make it when the container starts, or give it with RUN --mount=type=secret",
    ),
    Cause(
        identifier="database-cluster",
        title="a database was made during the build: it has a random identifier and times",
        remedy="make it when the container starts; Debian's postgresql-common: create_main_cluster = false in createcluster.conf",
    ),
    Cause(
        identifier="java-keystore",
        title="Java's store of certificates holds the time of each import",
        remedy=_MEND,
        mended=True,
    ),
    # Compiled things.
    Cause(identifier="pyc-mtime", title="compiled Python holds its source's time", remedy=_MEND, mended=True),
    Cause(
        identifier="pyc-content",
        title="compiled Python differs: sets in another order (Python before 3.11), or a random path",
        remedy="ENV PYTHONHASHSEED=0, or PYTHONDONTWRITEBYTECODE=1, or pip install --no-compile",
    ),
    Cause(
        identifier="build-path",
        title="a program holds the random directory that it was compiled in, as pip and npm make them",
        remedy="install a wheel; or CFLAGS=-g0 for that RUN: the path is in the debug information",
    ),
    Cause(
        identifier="build-time",
        title="a program or archive holds the time at which it was made",
        remedy="most tools take it from SOURCE_DATE_EPOCH, which contain sets; for tar: --mtime=@$SOURCE_DATE_EPOCH; gzip -n; zip -X",
    ),
    Cause(
        identifier="build-machine",
        title="the number of CPUs or the kernel's version got into a file",
        remedy="give the number: make -j4; for uname: setarch --uname-2.6, or a configure cache",
    ),
    Cause(
        identifier="random-name",
        title="a file with a random name, as mktemp makes them",
        remedy="remove it at the end of the RUN that makes it",
    ),
    Cause(
        identifier="random-value", title="a random identifier", remedy="derive it from a fixed name: uuidgen --sha1, or give it"
    ),
    # Version control.
    Cause(identifier="git-index", title="git's index holds inode numbers and times", remedy=_MEND, mended=True),
    Cause(identifier="git-reflog", title="git logs the time of each movement", remedy=_MEND, mended=True),
    Cause(
        identifier="git-commit-time",
        title="another commit: the RUN made it at another time, or fetched a branch that has moved",
        remedy="GIT_AUTHOR_DATE=@$SOURCE_DATE_EPOCH GIT_COMMITTER_DATE=@$SOURCE_DATE_EPOCH git commit ...; fetch a commit by its hash",
    ),
    # Times in text.
    Cause(
        identifier="timestamp",
        title="a time or date of the build",
        remedy="write date -u -d @$SOURCE_DATE_EPOCH in place of date",
    ),
    Cause(identifier="follows", title="the same file differs in an earlier step already", remedy="mend the earlier line first"),
    Cause(identifier="unknown", title="no known cause", remedy="look at both versions: the first bytes that differ are shown"),
)

CAUSES = MappingProxyType({cause.identifier: cause for cause in _ALL})
