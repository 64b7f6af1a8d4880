"""Decides what is done in the new root file system: the files that contain adds, and the script that installs the packages.

Values to text. The script runs in a container whose root is the seed, with no network, and with the packages and these files
below `PACKAGES_PLACE`. Everything that would differ between two runs is fixed or removed at its end; each line says what it is for.
"""

from __future__ import annotations

from contain.build.debian.suites import DebianRelease
from contain.values import dataclass

PACKAGES_PLACE = "/contain-bootstrap"
"""Where the container sees the packages. The mount point lies below the tree, so the image has no such directory."""

ENVIRONMENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPT_NAME = "bootstrap.sh"
FILES_NAME = "files"
FIRST_NAME, REST_NAME = "first", "rest"
FIRST_PACKAGES = ("base-files", "base-passwd")
_DAY_SECONDS = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """A file of contain's own in the image. ``path`` is relative to its root."""

    path: str
    text: str
    mode: int = 0o644


_POLICY = AddedFile(
    path="usr/sbin/policy-rc.d",
    mode=0o755,
    text="""\
#!/bin/sh
# A container has no service manager: packages must not start services while they are installed.
# 101 means "action forbidden by policy" to invoke-rc.d.
exit 101
""",
)
_SPEEDUP = AddedFile(
    path="etc/dpkg/dpkg.cfg.d/docker-apt-speedup",
    text="""\
# A build step that is interrupted is thrown away as a whole, so dpkg need not wait for the disk after each file.
force-unsafe-io
""",
)
_CLEAN = AddedFile(
    path="etc/apt/apt.conf.d/docker-clean",
    text="""\
// Downloaded packages and apt's binary caches would only make layers larger, and different each time.
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
""",
)
_INDEXES = AddedFile(
    path="etc/apt/apt.conf.d/docker-gzip-indexes",
    text="""\
// apt update: keep the lists of packages compressed, and fetch no translated descriptions.
Acquire::GzipIndexes "true";
Acquire::Languages "none";
""",
)


def render_sources(release: DebianRelease) -> AddedFile:
    """The release's own apt sources. Not the mirror that the packages came from: the image must not depend on that."""
    name = release.codename
    suites = f"{name} {name}-updates"
    if not release.deb822_sources:
        lines = [
            f"deb http://deb.debian.org/debian {name} main",
            f"deb http://deb.debian.org/debian-security {name}-security main",
            f"deb http://deb.debian.org/debian {name}-updates main",
        ]
        return AddedFile(path="etc/apt/sources.list", text="\n".join(lines) + "\n")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    stanzas = [
        f"Types: deb\nURIs: http://deb.debian.org/{archive}\nSuites: {which}\nComponents: main\nSigned-By: {keyring}\n"
        for archive, which in (("debian", suites), ("debian-security", f"{name}-security"))
    ]
    return AddedFile(path="etc/apt/sources.list.d/debian.sources", text="\n".join(stanzas))


def added_files(release: DebianRelease) -> tuple[AddedFile, ...]:
    """What the image has besides the packages' files.

    The names of the ``docker-*`` files are those of Docker's images, because Dockerfiles remove them by name.
    """
    return (_POLICY, _SPEEDUP, _CLEAN, _INDEXES, render_sources(release))


def bootstrap_environment(epoch_seconds: int) -> tuple[tuple[str, str], ...]:
    """What maintainer scripts see: no questions, no locale, the archive's time, Perl's hashes in one order."""
    return (
        ("PATH", ENVIRONMENT_PATH),
        ("HOME", "/root"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("PERL_HASH_SEED", "0"),
        ("SOURCE_DATE_EPOCH", str(epoch_seconds)),
    )


def render_script(files: tuple[AddedFile, ...], *, epoch_seconds: int) -> str:
    """The script, for the seed's own ``/bin/sh``. Exit status 0: every package is configured and the tree is clean.

    The order is debootstrap's, shortened: accounts and directories first, then everything unpacked, then everything
    configured, in the order that dpkg finds from the dependencies.
    """
    installs = "\n".join(
        f"install -D -m {file.mode:04o} {PACKAGES_PLACE}/{FILES_NAME}/{file.path} /{file.path}" for file in files
    )
    return f"""\
set -eu
umask 022
cd {PACKAGES_PLACE}

# dpkg wants its two databases, even empty.
: > /var/lib/dpkg/status
: > /var/lib/dpkg/available

{installs}

# Accounts and the directory tree: other packages' scripts rely on these two before they could depend on them. base-passwd
# comes first, and chown needs its files.
dpkg --force-depends --install {FIRST_NAME}/base-passwd.deb
dpkg --force-depends --install {FIRST_NAME}/base-files.deb
dpkg --force-depends --unpack {REST_NAME}/*.deb
dpkg --configure --pending
dpkg --audit > /tmp/audit
if [ -s /tmp/audit ]; then cat /tmp/audit; exit 1; fi

# What tells one run from another.
find /run -mindepth 1 ! -path /run/lock -delete
rm -rf /tmp/* /var/log/apt/* /var/log/*.log /var/cache/apt/*.bin /var/cache/ldconfig/aux-cache
rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /etc/.pwd.lock /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend /var/lib/dpkg/triggers/Lock
find /var/lib/apt/lists -type f -delete
if [ -e /etc/machine-id ]; then : > /etc/machine-id; fi
# The day of a password's last change: the archive's, in every account.
sed -i -E 's/^([^:]*:[^:]*):[^:]*:/\\1:{epoch_seconds // _DAY_SECONDS}:/' /etc/shadow
"""
