"""What BuildKit's own tests promise of COPY, ADD, WORKDIR, ONBUILD and .dockerignore, as a table: a Dockerfile, files, what comes out.

The name of a case is that of BuildKit's test (``frontend/dockerfile/dockerfile_*_test.go``), which says the same in Go. Where theirs
starts from an image with a shell and lets it look at the result, the case here looks at the image's tree.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.errors import ContainError
from contain.oci import Platform
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import RootView, Store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root")]

HOST = BuildHost(platform=Platform(os="linux", architecture="amd64"))
Content = str | bytes | tuple[str] | None
"""A file's text; ``("target",)`` a symbolic link; None a directory."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """``shows``: path to content. ``status``: path to "MODE OWNER:GROUP". ``fails``: a piece of the error, nothing else counts then."""

    name: str
    dockerfile: str
    files: Mapping[str, Content] = field(default_factory=dict)
    shows: Mapping[str, Content] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    status: Mapping[str, str] = field(default_factory=dict)
    fails: str = ""
    target: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    only: bool = False  # nothing else is in the image


def tar_of(
    entries: Mapping[str, Content | tuple[str, str]], *, owners: Mapping[str, tuple[int, int, int]] | None = None
) -> bytes:
    """An archive; ``("hard", name)`` is a hard link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None else 0o644
            if owners and name in owners:
                info.mode, info.uid, info.gid = owners[name]
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif isinstance(content, tuple):
                info.type = tarfile.SYMTYPE if len(content) == 1 else tarfile.LNKTYPE
                info.linkname = content[-1]
                archive.addfile(info)
            else:
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nuser:x:1000:1001::/:/bin/sh\nuser01:x:1002:1002::/:/bin/sh\n"
GROUP = "root:x:0:\ndaemon:x:1:\nnobody:x:65534:\nuser:x:1001:\n"
BASE = {"base.tar": tar_of({"etc": None, "etc/passwd": PASSWD, "etc/group": GROUP})}
FROM_BASE = "FROM scratch AS base\nADD base.tar /\n"
ARCHIVE = tar_of({"foo": "content0"})
PACKED = gzip.compress(ARCHIVE, mtime=0)
OWNED = tar_of(
    {"file": "", "dir": None, "dir/subdir": None, "dir/subdir/nested": ""},
    owners={
        "file": (0o644, 100, 200),
        "dir": (0o755, 100, 200),
        "dir/subdir": (0o755, 101, 201),
        "dir/subdir/nested": (0o644, 102, 202),
    },
)
EXISTING = tar_of(
    {"existingdir": None, "existingdir/existingsubdir": None, "existingdir/existingfile": ""},
    owners={
        "existingdir": (0o755, 500, 600),
        "existingdir/existingsubdir": (0o755, 501, 601),
        "existingdir/existingfile": (0o644, 501, 601),
    },
)
INPUT = tar_of({"file": "", "dirs": None, "dirs/d": None}, owners={"file": (0o666, 0, 0), "dirs/d": (0o124, 0, 0)})
PARENTS = tar_of(
    {
        "test/a/b/c/d/foo": "",
        "test/a/b/c/d/e/bay": "",
        "test/a/b2/c/d/e/bar": "",
        "test/a/b/c2/d/e/baz": "",
        "test/a/b/c2/d/e2/baz": "",
    }
)
FROM_PARENTS = "FROM scratch AS base\nADD parents.tar /\nFROM scratch\n"
WILD = {"foo.go": "foo-contents", "bar.go": "bar-contents", "sub/dir1/dir2/foo": "foo-contents"}
LINKED: dict[str, Content] = {
    "bar": "bar-contents",
    "foo": ("bar",),
    "sub/lfile": "lfile-contents",
    "sub/l0": ("subfile",),
    "sub/subfile": "subfile-contents",
    "sub/l1": ("second",),
    "sub/second": ("baz",),
    "sub/baz": "baz-contents",
}
EXCLUDED: dict[str, Content] = {
    "dir1/file-101.png": "2",
    "dir1/file-102.txt": "3",
    "dir1/file-103.jpeg": "4",
    "dir2/file-201.pdf": "6",
    "dir2/file-202.jpeg": "7",
    "dir2/file-203.png": "8",
    "dir3/file-301.mp3": "9",
    "dir3/file-302.mpeg": "10",
    "dir4/file-401.txt": "11",
    "dir4/file-402.txt": ("file-401.txt",),
    "dir4/file-403.txt": ("file-404.txt",),
}
EXCLUSIONS: tuple[tuple[str, str, dict[str, Content], tuple[str, ...]], ...] = (
    (
        "1",
        "COPY --exclude=*/*.png --exclude=*/*.jpeg . /1",
        {f"1/{name}": value for name, value in EXCLUDED.items() if not name.endswith(("png", "jpeg"))},
        ("1/dir1/file-101.png", "1/dir1/file-103.jpeg", "1/dir2/file-202.jpeg", "1/dir2/file-203.png"),
    ),
    (
        "2",
        "COPY --exclude=*/*.pdf --exclude=*/*.txt . /2",
        {f"2/{name}": value for name, value in EXCLUDED.items() if not name.endswith(("pdf", "txt"))},
        (
            "2/dir1/file-102.txt",
            "2/dir2/file-201.pdf",
            "2/dir4/file-401.txt",
            "2/dir4/file-402.txt",
            "2/dir4/file-403.txt",
        ),
    ),
    ("3", "ADD --exclude=*.mp3 dir3/ /3/", {"3/file-302.mpeg": "10"}, ("3/file-301.mp3",)),
    (
        "4",
        "COPY --exclude=*.mp3 --exclude=*.jpeg --exclude=*.png --exclude=*.pdf --exclude=*.txt dir* /4/",
        {"4/file-302.mpeg": "10"},
        ("4/file-101.png", "4/file-102.txt", "4/file-201.pdf", "4/file-301.mp3", "4/file-401.txt"),
    ),
    (
        "5",
        "ADD --exclude=*.mp* --exclude=*.jpeg --exclude=*.png --exclude=*.pdf dir* /5",
        {
            "5/file-102.txt": "3",
            "5/file-401.txt": "11",
            "5/file-402.txt": ("file-401.txt",),
            "5/file-403.txt": ("file-404.txt",),
        },
        ("5/file-101.png", "5/file-201.pdf", "5/file-301.mp3", "5/file-302.mpeg"),
    ),
    ("6", "ADD --exclude=* dir* /6", {"6": None}, ("6/file-101.png",)),
)
TARGET_STAGE = (
    "FROM scratch AS base\nCOPY <<EOF /out/first\nvalue:$TARGETSTAGE\nEOF\nARG TARGETSTAGE\n"
    "COPY <<EOF /out/second\nvalue:$TARGETSTAGE\nEOF\nFROM scratch AS foo\nCOPY --from=base /out/ /\n"
    "FROM scratch\nCOPY --from=base /out/ /\n"
)
FOO = "sha256:" + hashlib.sha256(b"content1").hexdigest()
PARENTS_FILES = {"parents.tar": PARENTS}

CASES = [
    Case(name="testDockerfileCopyFromArgs", dockerfile="FROM scratch\nCOPY --from=$FOO . .\n", fails="--from is not expanded"),
    Case(
        name="testEmptyDestDir",
        dockerfile='FROM scratch\nENV empty=""\nCOPY testfile $empty\n',
        files={"testfile": "contents0"},
        shows={"testfile": "contents0"},
    ),
    Case(
        name="testPreserveDestDirSlash",
        dockerfile="FROM scratch\nCOPY testfile /sample/\n",
        files={"testfile": "contents0"},
        shows={"sample/testfile": "contents0"},
    ),
    Case(
        name="testCopyLinkDotDestDir",
        dockerfile="FROM scratch\nWORKDIR /var/www\nCOPY --link testfile .\n",
        files={"testfile": "contents0"},
        shows={"var/www/testfile": "contents0"},
    ),
    Case(
        name="testCopyLinkEmptyDestDir",
        dockerfile='FROM scratch\nWORKDIR /var/www\nENV empty=""\nCOPY --link testfile $empty\n',
        files={"testfile": "contents0"},
        shows={"var/www/testfile": "contents0"},
    ),
    Case(
        name="testCopyChownExistingDir/kept",
        dockerfile="FROM scratch AS source\nADD owned.tar /\nFROM scratch\nADD existing.tar /\nCOPY --from=source /file .\n"
        "COPY --from=source /dir /dir\nCOPY --from=source /dir/. /existingdir\n",
        files={"owned.tar": OWNED, "existing.tar": EXISTING},
        status={
            "file": "644 100:200",
            "dir": "755 0:0",
            "dir/subdir": "755 101:201",
            "dir/subdir/nested": "644 102:202",
            "existingdir": "755 500:600",
            "existingdir/existingsubdir": "755 501:601",
            "existingdir/existingfile": "644 501:601",
            "existingdir/subdir": "755 101:201",
            "existingdir/subdir/nested": "644 102:202",
        },
    ),
    Case(
        name="testCopyChownExistingDir/chowned",
        dockerfile="FROM scratch AS source\nADD owned.tar /\nFROM scratch\nADD existing.tar /\n"
        "COPY --from=source --chown=300:400 /file .\nCOPY --from=source --chown=300:400 /dir /dir\n"
        "COPY --from=source --chown=300:400 /dir/. /existingdir\n",
        files={"owned.tar": OWNED, "existing.tar": EXISTING},
        status={
            "file": "644 300:400",
            "dir": "755 300:400",
            "dir/subdir": "755 300:400",
            "dir/subdir/nested": "644 300:400",
            "existingdir": "755 500:600",
            "existingdir/existingsubdir": "755 501:601",
            "existingdir/existingfile": "644 501:601",
            "existingdir/subdir": "755 300:400",
            "existingdir/subdir/nested": "644 300:400",
        },
    ),
    Case(
        name="testEmptyWildcard",
        dockerfile="FROM scratch\nCOPY foo nomatch* /\n",
        files={"foo": "contents0"},
        shows={"foo": "contents0"},
        only=True,
    ),
    Case(
        name="testCopyChownCreateDest",
        dockerfile=FROM_BASE
        + "ARG group\nENV owner user01\nCOPY --chown=user:user f /dest/\nCOPY --chown=${owner}:${group} . /dest01\n",
        files={**BASE, "f": ""},
        arguments={"group": "user"},
        status={"dest": "755 1000:1001", "dest01": "755 1002:1001", "dest01/f": "644 1002:1001"},
    ),
    Case(
        name="testCopyThroughSymlinkContext",
        dockerfile="FROM scratch\nCOPY link/foo .\n",
        files={"link": ("sub",), "sub/foo": "contents"},
        shows={"foo": "contents"},
        only=True,
    ),
    Case(
        name="testCopyThroughSymlinkMultiStage",
        dockerfile="FROM scratch AS build\nADD t.tar /\nFROM scratch\nCOPY --from=build /sub/foo .\nCOPY --from=build /sub2/foo bar\n",
        files={"t.tar": tar_of({"out/sub/foo": "data", "sub": ("/out/sub",), "sub2": ("out/sub",)})},
        shows={"foo": "data", "bar": "data"},
        only=True,
    ),
    Case(
        name="testCopyFollowAllSymlinks",
        dockerfile="FROM scratch\nCOPY foo /\nCOPY foo/sub bar\n",
        files={"bar": "bar-contents", "foo/sub": ("../bar",)},
        shows={"bar": "bar-contents", "sub": ("../bar",)},
    ),
    Case(
        name="testCopySymlinks",
        dockerfile="FROM scratch\nCOPY foo /\nCOPY sub/l* alllinks/\n",
        files=LINKED,
        shows={
            "foo": "bar-contents",
            "alllinks/l0": "subfile-contents",
            "alllinks/lfile": "lfile-contents",
            "alllinks/l1": "baz-contents",
        },
        absent=("alllinks/subfile",),
    ),
    Case(
        name="testCopyChown",
        dockerfile=FROM_BASE + "ENV owner 1000\nCOPY --chown=daemon foo /\nCOPY --chown=1000:nobody bar /baz\nARG group\n"
        "COPY --chown=${owner}:${group} foo /foobis\n",
        files={**BASE, "foo": "foo-contents", "bar/sub": ""},
        arguments={"group": "nobody"},
        status={"foo": "644 1:1", "baz/sub": "644 1000:65534", "foobis": "644 1000:65534"},
    ),
    Case(
        name="testCopyChmod",
        dockerfile="FROM scratch\nCOPY --chmod=0644 foo /\nCOPY --chmod=777 bar /baz\nCOPY --chmod=0 foo /foobis\n"
        "COPY --chmod=777 foo /parent/foo\nCOPY --chmod=770 foo /parent/sub/foo\nARG mode\nCOPY --chmod=${mode} foo /footer\n",
        files={"foo": "foo-contents", "bar": "bar-contents"},
        arguments={"mode": "755"},
        status={
            "foo": "644 0:0",
            "baz": "777 0:0",
            "foobis": "0 0:0",
            "parent": "777 0:0",
            "parent/sub": "770 0:0",
            "footer": "755 0:0",
        },
    ),
    Case(
        name="testCopyInvalidChmod/letters",
        dockerfile="FROM scratch\nCOPY --chmod=64a foo /\n",
        files={"foo": ""},
        fails="'64a'",
    ),
    Case(
        name="testCopyInvalidChmod/range",
        dockerfile="FROM scratch\nCOPY --chmod=10000 foo /\n",
        files={"foo": ""},
        fails="'10000'",
    ),
    Case(
        name="testCopyOverrideFiles",
        dockerfile="FROM scratch\nCOPY sub sub\nCOPY sub sub\nCOPY files/foo.go dest/foo.go\n"
        "COPY files/foo.go dest/foo.go\nCOPY files dest\n",
        files={"sub/dir1/dir2/foo": "foo-contents", "files/foo.go": "foo.go-contents"},
        shows={"sub/dir1/dir2/foo": "foo-contents", "dest/foo.go": "foo.go-contents"},
    ),
    Case(
        name="testCopyVarSubstitution",
        dockerfile="FROM scratch\nENV FOO bar\nCOPY $FOO baz\n",
        files={"bar": "bar-contents"},
        shows={"baz": "bar-contents"},
    ),
    Case(
        name="testCopyWildcards",
        dockerfile="FROM scratch\nCOPY *.go /gofiles/\nCOPY f*.go foo2.go\nCOPY sub/* /subdest/\nCOPY sub/*/dir2/foo /subdest2/\n"
        "COPY sub/*/dir2/foo /subdest3/bar\nCOPY . all/\nCOPY sub/dir1/ subdest4\nCOPY sub/dir1/. subdest5\nCOPY sub/dir1 subdest6\n",
        files=WILD,
        shows={
            "gofiles/foo.go": "foo-contents",
            "gofiles/bar.go": "bar-contents",
            "foo2.go": "foo-contents",
            "subdest/dir2/foo": "foo-contents",
            "subdest2/foo": "foo-contents",
            "subdest3/bar": "foo-contents",
            "all/foo.go": "foo-contents",
            "subdest4/dir2/foo": "foo-contents",
            "subdest5/dir2/foo": "foo-contents",
            "subdest6/dir2/foo": "foo-contents",
        },
    ),
    Case(
        name="testCopyRelative",
        dockerfile="FROM scratch\nWORKDIR /test1\nWORKDIR test2\nCOPY foo ./\nADD foo ./bar/baz\nCOPY foo ./bar/baz2\nWORKDIR ..\n"
        "COPY foo ./\nCOPY foo /test3/\nWORKDIR /test4\nCOPY . .\nWORKDIR /test5/test6\nCOPY foo ../\n",
        files={"foo": "hello"},
        shows={
            "test1/test2/foo": "hello",
            "test1/test2/bar/baz": "hello",
            "test1/test2/bar/baz2": "hello",
            "test1/foo": "hello",
            "test3/foo": "hello",
            "test4/foo": "hello",
            "test5/foo": "hello",
        },
    ),
    Case(
        name="testCopyUnicodePath",
        dockerfile="FROM scratch\nCOPY test-äöü.txt /\nCOPY test-%C3%A4%C3%B6%C3%BC.txt /\nCOPY test+aou.txt /\n",
        files={"test-äöü.txt": "foo", "test-%C3%A4%C3%B6%C3%BC.txt": "bar", "test+aou.txt": "baz"},
        shows={"test-äöü.txt": "foo", "test-%C3%A4%C3%B6%C3%BC.txt": "bar", "test+aou.txt": "baz"},
        only=True,
    ),
    *(
        Case(
            name=f"testChmodNonOctal/{source}/{mode}",
            dockerfile=f"FROM scratch AS base\nADD input.tar /input/\nFROM scratch\n"
            f"COPY --from=base --chmod={mode} {source} {target}\n",
            files={"input.tar": INPUT},
            status={shown: f"{expected} 0:0"},
        )
        for source, target, shown, mode, expected in (
            ("/input/file", "/f", "f", "go-w", "644"),
            ("/input/file", "/f", "f", "u=rw,g=r,o=r", "644"),
            ("/input/file", "/f", "f", "a+X", "666"),
            ("/input/dirs", "/", "d", "go-w", "104"),
            ("/input/dirs", "/", "d", "u+rw,g+r,o-x,o+w", "766"),
            ("/input/dirs", "/", "d", "a+X", "135"),
        )
    ),
    # -- ADD of archives
    Case(
        name="testDockerfileAddArchive/plain",
        dockerfile="FROM scratch\nADD t.tar /\n",
        files={"t.tar": ARCHIVE},
        shows={"foo": "content0"},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchive/gzip",
        dockerfile="FROM scratch\nADD t.tar.gz /\n",
        files={"t.tar.gz": PACKED},
        shows={"foo": "content0"},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchive/unpack=false",
        dockerfile="FROM scratch\nADD --unpack=false t.tar.gz /\n",
        files={"t.tar.gz": PACKED},
        shows={"t.tar.gz": PACKED},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchive/copy",
        dockerfile="FROM scratch\nCOPY t.tar.gz /\n",
        files={"t.tar.gz": PACKED},
        shows={"t.tar.gz": PACKED},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchive/url",
        dockerfile="FROM scratch\nADD {URL}/t.tar.gz /\n",
        shows={"t.tar.gz": PACKED},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchive/url-unpack",
        dockerfile="FROM scratch\nADD --unpack=true {URL}/t.tar.gz /dest/\n",
        shows={"dest/foo": "content0"},
    ),
    Case(
        name="testDockerfileAddArchive/url-newname",
        dockerfile="FROM scratch\nADD {URL}/t.tar.gz /newname.tar.gz\n",
        shows={"newname.tar.gz": PACKED},
        only=True,
    ),
    Case(
        name="testDockerfileAddArchiveWithImpliedParentDir",
        dockerfile="FROM scratch\nADD t.tar.gz /\n",
        files={"t.tar.gz": gzip.compress(tar_of({"etc/dnf": None, "etc/dnf/dnf.conf": "content0"}))},
        shows={"etc/dnf/dnf.conf": "content0"},
    ),
    Case(
        name="testDockerfileAddArchiveThroughAbsoluteSymlink",
        dockerfile="FROM scratch\nADD rootfs.tar /\nADD payload.tar /\n",
        files={
            "rootfs.tar": tar_of({"run": None, "var": None, "var/run": ("/run",)}),
            "payload.tar": tar_of(
                {
                    "var/run/act": None,
                    "var/run/act/actions": None,
                    "var/run/act/actions/HEAD": "ref: refs/heads/main\n",
                    "var/run/act/actions/HEAD.link": ("hard", "var/run/act/actions/HEAD"),
                }
            ),
        },
        shows={
            "run/act/actions/HEAD": "ref: refs/heads/main\n",
            "run/act/actions/HEAD.link": "ref: refs/heads/main\n",
            "var/run": ("/run",),
        },
    ),
    Case(
        name="testDockerfileAddChownArchive",
        dockerfile="FROM scratch\nADD --chown=100:200 t.tar /out/\n",
        files={"t.tar": ARCHIVE},
        shows={"out/foo": "content0"},
        status={"out/foo": "644 100:200", "out": "755 100:200"},
    ),
    Case(
        name="testDockerfileAddArchiveWildcard",
        dockerfile="FROM scratch\nADD *.tar /dest\n",
        files={"t.tar": ARCHIVE, "b.tar": tar_of({"bar": "content1"})},
        shows={"dest/foo": "content0", "dest/bar": "content1"},
    ),
    Case(
        name="testDockerfileAddChownExpand",
        dockerfile=FROM_BASE + "ARG group\nENV owner 1000\nADD --chown=${owner}:${group} foo /\n",
        files={**BASE, "foo": "foo-contents"},
        arguments={"group": "nobody"},
        status={"foo": "644 1000:65534"},
    ),
    Case(
        name="testAddInvalidChmod/letters", dockerfile="FROM scratch\nADD --chmod=64a foo /\n", files={"foo": ""}, fails="'64a'"
    ),
    Case(
        name="testAddInvalidChmod/range",
        dockerfile="FROM scratch\nADD --chmod=10000 foo /\n",
        files={"foo": ""},
        fails="'10000'",
    ),
    # -- ADD of URLs
    Case(
        name="testDockerfileADDFromURL/name",
        dockerfile="FROM scratch\nADD {URL}/foo /dest/\n",
        shows={"dest/foo": "content1"},
        status={"dest/foo": "600 0:0"},
    ),
    Case(
        name="testDockerfileADDFromURL/unnamed",
        dockerfile="FROM scratch\nADD {URL}/ /dest/\n",
        shows={"dest/__unnamed__": "content2"},
    ),
    Case(
        name="testAddURLChmod",
        dockerfile="FROM scratch\nADD --chmod=644 {URL}/foo /tmp/foo1\nADD --chmod=755 {URL}/foo /tmp/foo2\n"
        "ADD --chmod=0413 {URL}/foo /tmp/foo3\n"
        "ARG mode\nADD --chmod=${mode} {URL}/foo /tmp/foo4\n",
        arguments={"mode": "400"},
        status={"tmp/foo1": "644 0:0", "tmp/foo2": "755 0:0", "tmp/foo3": "413 0:0", "tmp/foo4": "400 0:0"},
    ),
    Case(
        name="testAddChecksum/Valid",
        dockerfile=f"FROM scratch\nADD --checksum={FOO} {{URL}}/foo /tmp/foo\n",
        shows={"tmp/foo": "content1"},
    ),
    Case(
        name="testAddChecksum/DigestFromEnv",
        dockerfile=f"FROM scratch\nENV DIGEST={FOO}\nENV LINK={{URL}}/foo\nADD --checksum=${{DIGEST}} ${{LINK}} /tmp/foo\n",
        shows={"tmp/foo": "content1"},
    ),
    *(
        Case(
            name=f"testAddChecksum/{name}",
            dockerfile=f"FROM scratch\nADD --checksum={checksum} {{URL}}/foo /tmp/foo\n",
            fails=fails,
        )
        for name, checksum, fails in (
            ("DigestMismatch", "sha256:" + hashlib.sha256(b"").hexdigest(), "digest mismatch"),
            ("DigestWithKnownButUnsupportedAlgoName", "md5:7e55db001d319a94b0b713529a756623", "unsupported digest algorithm"),
            ("DigestWithUnknownAlgoName", "unknown:" + "a" * 64, "unsupported digest algorithm"),
            ("DigestWithoutAlgoName", "a" * 64, "invalid checksum digest format"),
        )
    ),
    Case(
        name="testAddChecksum/NonHTTPSource",
        dockerfile=f"FROM scratch\nADD --checksum={FOO} foo /tmp/foo\n",
        files={"foo": "local file"},
        fails="checksum requires HTTP(S) or Git sources",
    ),
    # -- --parents
    Case(
        name="testCopyParents",
        dockerfile="FROM scratch\nCOPY --parents foo1/foo2/bar /\nWORKDIR /test\nCOPY --parents foo1/foo2/ba* .\n",
        files={"foo1/foo2/bar": "testing", "foo1/foo2/baz": "testing2"},
        shows={"foo1/foo2/bar": "testing", "test/foo1/foo2/bar": "testing", "test/foo1/foo2/baz": "testing2"},
        absent=("foo1/foo2/baz",),
    ),
    *(
        Case(
            name=f"{test}/{name}",
            dockerfile=f"{FROM_PARENTS}COPY --from=base --parents {sources} /out/\n",
            files=PARENTS_FILES,
            shows=dict.fromkeys(shows, ""),
            absent=absent,
        )
        for test, name, sources, shows, absent in (
            ("testCopyRelativeParents", "middle", "/test/a/b/./c/d", ("out/c/d/e/bay", "out/c/d/foo"), ("out/a", "out/e")),
            (
                "testCopyRelativeParents",
                "end",
                "/test/a/b/c/d/.",
                ("out/test/a/b/c/d/e/bay", "out/test/a/b/c/d/foo"),
                ("out/d",),
            ),
            (
                "testCopyRelativeParents",
                "start",
                "./test/a/b/c/d",
                ("out/test/a/b/c/d/e/bay", "out/test/a/b/c/d/foo"),
                ("out/d",),
            ),
            ("testCopyRelativeParents", "double", "/test/a/./b/./c", ("out/b/c/d/e/bay", "out/b/c/d/foo"), ("out/c",)),
            ("testCopyRelativeParents", "wildcard", "/test/a/./*/c", ("out/b/c/d/e/bay", "out/b2/c/d/e/bar"), ("out/b/c2",)),
            (
                "testCopyRelativeParents",
                "doublewildcard",
                "/test/a/b*/./c/**/e",
                ("out/c/d/e/bay", "out/c/d/e/bar"),
                ("out/c/d/foo", "out/c2"),
            ),
            (
                "testCopyRelativeParents",
                "doubleinputs",
                "/test/a/b/c*/./d/**/baz /test/a/b*/./c/**/bar",
                ("out/d/e/baz", "out/d/e2/baz", "out/c/d/e/bar"),
                ("out/d/e/bay",),
            ),
            ("testCopyParentsMissingDirectory", "normal", "/test/a/b/c/d", ("out/test/a/b/c/d/e/bay",), ("out/e", "out/a")),
            ("testCopyParentsMissingDirectory", "withpivot", "/test/a/b/./c/d", ("out/c/d/foo",), ("out/a", "out/e")),
        )
    ),
    Case(
        name="testCopyParentsMissingDirectory/nonexistentfile",
        dockerfile=f"{FROM_PARENTS}COPY --from=base --parents /test/nonexistent-file /out/\n",
        files=PARENTS_FILES,
        fails="test/nonexistent-file",
    ),
    *(
        Case(
            name=f"testCopyParentsMissingDirectory/{name}",
            dockerfile=f"{FROM_PARENTS}COPY --from=base --parents {source} /out/\n",
            files=PARENTS_FILES,
            shows={"out": None},
            only=True,
        )
        for name, source in (("wildcard-nonexistent", "/test/a/b3*/c"), ("wildcard-afterpivot", "/test/a/b/./c3*"))
    ),
    # -- --exclude
    *(
        Case(
            name=f"testExcludedFilesOnCopy/{number}",
            dockerfile=f"FROM scratch\n{instruction}\n",
            files=EXCLUDED,
            shows=shows,
            absent=absent,
            only=number == "6",
        )
        for number, instruction, shows, absent in EXCLUSIONS
    ),
    # -- .dockerignore
    Case(
        name="testDockerignore",
        dockerfile="FROM scratch\nCOPY . .\n",
        files={
            "foo": "foo-contents",
            "bar": "bar-contents",
            "baz": "baz-contents",
            "bay": "bay-contents",
            ".dockerignore": "\nba*\nDockerfile\n!bay\n.dockerignore\n",
        },
        shows={"foo": "foo-contents", "bay": "bay-contents"},
        only=True,
    ),
    Case(
        name="testDockerignoreInvalid", dockerfile="FROM scratch\nCOPY . .\n", files={".dockerignore": "!\n"}, fails='"!" alone'
    ),
    # -- WORKDIR
    Case(name="testWorkdirCreatesDir", dockerfile="FROM scratch\nWORKDIR /foo\nWORKDIR /\n", shows={"foo": None}, only=True),
    Case(
        name="testWorkdirUser",
        dockerfile=FROM_BASE + "USER user\nWORKDIR /mydir\n",
        files=BASE,
        status={"mydir": "755 1000:1001"},
    ),
    Case(
        name="testWorkdirCopyIgnoreRelative",
        dockerfile="FROM scratch AS base\nWORKDIR /foo\nCOPY Dockerfile /\nFROM scratch\nCOPY --from=base Dockerfile .\n",
        status={"Dockerfile": "644 0:0"},
    ),
    Case(
        name="testWorkdirExists",
        dockerfile="FROM scratch\nADD t.tar /\nWORKDIR /mydir\n",
        files={"t.tar": tar_of({"mydir": None}, owners={"mydir": (0o755, 1000, 1001)})},
        status={"mydir": "755 1000:1001"},
    ),
    # -- heredocs
    Case(
        name="testCopyHeredoc",
        dockerfile=FROM_BASE
        + "WORKDIR /dest\nCOPY <<EOF single\nsingle file\nEOF\nCOPY <<EOF <<EOF2 double/\nfirst file\nEOF\nsecond file\nEOF2\n"
        "COPY --chmod=777 <<EOF /permfiles/all\ndummy content\nEOF\nCOPY --chmod=0644 <<EOF /permfiles/rw\ndummy content\nEOF\n"
        "COPY --chown=user:user <<EOF /permfiles/owned\ndummy content\nEOF\n",
        files=BASE,
        shows={"dest/single": "single file\n", "dest/double/EOF": "first file\n", "dest/double/EOF2": "second file\n"},
        status={"permfiles/all": "777 0:0", "permfiles/rw": "644 0:0", "permfiles/owned": "644 1000:1001"},
    ),
    Case(
        name="testCopyHeredocSpecialSymbols",
        dockerfile='FROM scratch\nCOPY <<EOF quotefile\n"quotes in file"\nEOF\nCOPY <<EOF slashfile1\n\\\nEOF\n'
        "COPY <<EOF slashfile2\n\\\\\nEOF\n"
        'COPY <<EOF slashfile3\n\\$\nEOF\nCOPY <<"EOF" rawslashfile1\n\\\nEOF\nCOPY <<"EOF" rawslashfile2\n\\\\\nEOF\n'
        'COPY <<"EOF" rawslashfile3\n\\$\nEOF\n',
        shows={
            "quotefile": '"quotes in file"\n',
            "slashfile1": "\n",
            "slashfile2": "\\\n",
            "slashfile3": "$\n",
            "rawslashfile1": "\\\n",
            "rawslashfile2": "\\\\\n",
            "rawslashfile3": "\\$\n",
        },
        only=True,
    ),
    Case(
        name="testHeredocIndent",
        dockerfile="FROM scratch\nCOPY <<EOF /dest/foo-copy\n\tfoo\nEOF\nCOPY <<-EOF /dest/bar-copy\n\tbar\nEOF\n",
        shows={"dest/foo-copy": "\tfoo\n", "dest/bar-copy": "bar\n"},
    ),
    Case(
        name="testHeredocVarSubstitution",
        dockerfile="FROM scratch\nARG name=world\n"
        + "".join(
            f"COPY <<{word} /dest/{file}\nHello {what}!\nEOF\n"
            for word, file, what in (
                ("EOF", "c1", "${name}"),
                ("'EOF'", "c2", "${name}"),
                ('"EOF"', "c3", "${name}"),
                ("EOF", "q1", "'${name}'"),
                ("EOF", "q2", '"${name}"'),
                ("'EOF'", "qsingle1", "'${name}'"),
                ("'EOF'", "qsingle2", '"${name}"'),
                ('"EOF"', "qdouble1", "'${name}'"),
                ('"EOF"', "qdouble2", '"${name}"'),
            )
        ),
        shows={
            "dest/c1": "Hello world!\n",
            "dest/c2": "Hello ${name}!\n",
            "dest/c3": "Hello ${name}!\n",
            "dest/q1": "Hello 'world'!\n",
            "dest/q2": 'Hello "world"!\n',
            "dest/qsingle1": "Hello '${name}'!\n",
            "dest/qsingle2": 'Hello "${name}"!\n',
            "dest/qdouble1": "Hello '${name}'!\n",
            "dest/qdouble2": 'Hello "${name}"!\n',
        },
    ),
    # -- ONBUILD, stages, the rest
    Case(
        name="testOnBuildInheritedStageWithFrom",
        dockerfile="FROM scratch AS src\nCOPY file /in/file\nFROM scratch AS base\nONBUILD COPY --from=src /in/file /out/foo\n"
        "FROM base AS mid\nFROM scratch\nCOPY --from=mid /out/foo /bar\n",
        files={"file": "12"},
        shows={"bar": "12"},
        only=True,
    ),
    Case(
        name="testOnBuildWithChildStage",
        dockerfile="FROM scratch AS trigger\nONBUILD COPY file /didrun\nFROM trigger AS base\nFROM base AS child\nCOPY file /step3\n",
        files={"file": "yes"},
        shows={"didrun": "yes", "step3": "yes"},
        only=True,
    ),
    Case(
        name="testOnBuildHeredoc",
        dockerfile="FROM scratch AS base\nONBUILD COPY <<EOF /dest\nhello world\nEOF\nFROM base\n",
        shows={"dest": "hello world\n"},
    ),
    Case(
        name="testMultiStageCaseInsensitive",
        dockerfile="FROM scratch AS STAge0\nCOPY foo bar\nFROM scratch AS staGE1\nCOPY --from=staGE0 bar baz\n"
        "FROM scratch\nCOPY --from=stage1 baz bax\n",
        files={"foo": "foo-contents"},
        target="Stage1",
        shows={"baz": "foo-contents"},
        only=True,
    ),
    Case(
        name="testSymlinkDestination",
        dockerfile="FROM scratch\nADD t.tar /\nCOPY foo /symlink/\n",
        files={"t.tar": tar_of({"symlink": ("../tmp/symlink-target",)}), "foo": "content0"},
        shows={"tmp/symlink-target/foo": "content0", "symlink": ("../tmp/symlink-target",)},
    ),
    Case(
        name="testArgDefaultExpansion/missing",
        dockerfile='FROM scratch\nARG FOO\nARG BAR=${FOO:?"foo missing"}\n',
        fails="foo missing",
    ),
    Case(
        name="testArgDefaultExpansion/given",
        dockerfile='FROM scratch\nARG FOO\nARG BAR=${FOO:?"foo missing"}\nCOPY <<EOF /out\n$BAR\nEOF\n',
        arguments={"FOO": "123"},
        shows={"out": "123\n"},
    ),
    Case(
        name="testMultiArgs",
        dockerfile='ARG a1="foo bar" a2=box\nARG a3="$a2-foo"\nFROM scratch\nARG a3 a4="123 456" a1\n'
        "COPY <<EOF /out\n$a1:$a3:$a4\nEOF\n",
        shows={"out": "foo bar:box-foo:123 456\n"},
    ),
    Case(
        name="testQuotedMetaArgs",
        dockerfile='ARG a1="box"\nARG a2="$a1-foo"\nFROM scratch\nARG a2\nARG a3="bar-$a2"\nCOPY <<EOF /out\n$a3\nEOF\n',
        shows={"out": "bar-box-foo\n"},
    ),
    *(
        Case(
            name=f"testTargetStageNameArg/{name}",
            dockerfile=TARGET_STAGE + more,
            target=target,
            shows={"first": "value:\n", "second": f"value:{value}\n"},
            only=True,
        )
        for name, more, target, value in (
            ("target", "", "foo", "foo"),
            ("default", "", None, "default"),
            ("named", "FROM scratch AS final\nCOPY --from=base /out/ /\n", None, "final"),
        )
    ),
    Case(name="testEmptyStages", dockerfile="ARG foo=bar\n", fails="has no FROM"),
    Case(
        name="testOutOfOrderStage",
        dockerfile="FROM scratch AS target\nCOPY --from=build / /out\nFROM scratch AS build\nCOPY /Dockerfile /d2\nFROM target\n",
        fails="defined before",
    ),
]


def write(directory: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, tuple):
            path.symlink_to(content[0])
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    pages = {"/foo": b"content1", "/": b"content2", "/t.tar.gz": PACKED}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(pages[self.path])))
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("cases") / "store") as opened:
        yield opened


def tree_of(result: BuildResult, store: Store) -> tuple[dict[str, Content], dict[str, str]]:
    contents: dict[str, Content] = {}
    status: dict[str, str] = {}
    with RootView(store.layer_trees(result.image)) as view:
        for entry in view.walk():
            path = str(entry.path).lstrip("/")
            status[path] = f"{entry.mode:o} {entry.uid}:{entry.gid}"
            if entry.kind.value == "symlink":
                contents[path] = (entry.link_target,)
            else:
                contents[path] = view.read(entry.path, limit_bytes=1 << 20) if entry.kind.value == "file" else None
    return contents, status


def as_bytes(content: Content) -> Content:
    return content.encode() if isinstance(content, str) else content


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_buildkit_promises(case: Case, tmp_path: Path, store: Store, url: str) -> None:
    text = case.dockerfile.replace("{URL}", url)
    write(tmp_path, {**case.files, "Dockerfile": text})
    request = BuildRequest(context=tmp_path, target=case.target, build_args=case.arguments)
    if case.fails:
        with pytest.raises(ContainError) as caught:
            build(request, store=store, progress=Silent(), host=HOST)
        assert case.fails in str(caught.value)
        return
    contents, status = tree_of(build(request, store=store, progress=Silent(), host=HOST), store)
    for path, content in case.shows.items():
        assert contents.get(path, "missing") == as_bytes(content), path
    for path in case.absent:
        assert path not in contents
    assert {path: status.get(path) for path in case.status} == case.status
    if case.only:
        parents = {"/".join(path.split("/")[:depth]) for path in case.shows for depth in range(path.count("/") + 1)}
        assert set(contents) - parents - {""} == set(case.shows)


def test_a_socket_becomes_an_empty_file(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """testCopySocket."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.sock")
        result = build(BuildRequest(context=tmp_path), store=store, progress=Silent(), host=HOST)
    assert tree_of(result, store)[0]["socket.sock"] == b""


def test_what_a_wildcard_does_not_match_may_change(tmp_path: Path, store: Store) -> None:
    """testCopyWildcardCache."""
    text = "FROM scratch\nCOPY foo* files/\nCOPY bar files/\n"
    write(tmp_path, {"Dockerfile": text, "foo1": "foo1-data", "foo2": "foo2-data", "bar": "bar-data"})
    layers = []
    for name in ("", "bar", "foo2"):
        if name:
            (tmp_path / name).write_text(f"{name}-data-mod")
        layers.append(build(BuildRequest(context=tmp_path), store=store, progress=Silent(), host=HOST).image.config.diff_ids)
    assert layers[0][0] == layers[1][0] != layers[2][0]
    assert layers[0][1] != layers[1][1] == layers[2][1]


def test_a_directory_of_the_context_may_become_a_file(tmp_path: Path, store: Store) -> None:
    """testContextChangeDirToFile."""
    write(tmp_path, {"Dockerfile": "FROM scratch\nCOPY foo /\n", "foo/bar": "contents"})
    build(BuildRequest(context=tmp_path), store=store, progress=Silent(), host=HOST)
    (tmp_path / "foo/bar").unlink()
    (tmp_path / "foo").rmdir()
    (tmp_path / "foo").write_text("contents2")
    result = build(BuildRequest(context=tmp_path), store=store, progress=Silent(), host=HOST)
    assert tree_of(result, store)[0]["foo"] == b"contents2"


def test_each_dockerfile_has_its_own_ignore_file(tmp_path: Path, store: Store) -> None:
    """testDockerignoreOverride."""
    text = "FROM scratch\nCOPY foo* bar* /\n"
    files = {"Dockerfile": text, "Dockerfile2": text, "foo": "contents0", "bar": "contents0"}
    write(tmp_path, {**files, "Dockerfile.dockerignore": "\nbar\n", "Dockerfile2.dockerignore": "\nfoo\n"})
    found = []
    for name in ("Dockerfile", "Dockerfile2"):
        request = BuildRequest(context=tmp_path, dockerfile=tmp_path / name)
        found.append(set(tree_of(build(request, store=store, progress=Silent(), host=HOST), store)[0]) - {""})
    assert found == [{"foo"}, {"bar"}]


def built(
    text: str, tmp_path: Path, store: Store, *, name: str = "", files: Mapping[str, Content] | None = None
) -> BuildResult:
    """An image of its own small context, perhaps with a name."""
    context = Path(tempfile.mkdtemp(dir=tmp_path))
    write(context, {**(files or {}), "Dockerfile": text})
    tags = (parse_reference(name),) if name else ()
    return build(BuildRequest(context=context, tags=tags), store=store, progress=Silent(), host=HOST)


def test_triggers_of_an_image_run_once_and_are_not_inherited(tmp_path: Path, store: Store) -> None:
    """testOnBuildCleared."""
    base = built("FROM scratch\nONBUILD COPY file /out/\n", tmp_path, store, name="example.com/cleared:base")
    assert base.image.config.on_build == ("COPY file /out/",)
    child = built("FROM example.com/cleared:base\n", tmp_path, store, name="example.com/cleared:child", files={"file": "11"})
    assert child.image.config.on_build == ()
    last = built("FROM example.com/cleared:child AS base\nFROM scratch\nCOPY --from=base /out /\n", tmp_path, store)
    assert tree_of(last, store)[0] == {"": None, "file": b"11"}


def test_a_trigger_may_need_a_stage_of_the_file_that_uses_it(tmp_path: Path, store: Store) -> None:
    """testOnBuildNamedContext and testOnBuildNewDeps, without their shells."""
    built("FROM scratch\nONBUILD COPY --from=otherstage /testfile /out/foo\n", tmp_path, store, name="example.com/deps:base")
    text = "FROM scratch AS otherstage\nCOPY testfile /\nFROM example.com/deps:base AS inputstage\n"
    text += "FROM scratch\nCOPY --from=inputstage /out/foo /bar\n"
    result = built(text, tmp_path, store, files={"testfile": "hello"})
    assert tree_of(result, store)[0] == {"": None, "bar": b"hello"}


def test_a_trigger_may_need_another_image(tmp_path: Path, store: Store) -> None:
    """testOnBuildNewDeps."""
    built("FROM scratch\nCOPY <<EOF /etc/release\n3\nEOF\n", tmp_path, store, name="example.com/other:1")
    trigger = "FROM scratch\nONBUILD COPY --from=example.com/other:1 /etc/release /out/release\n"
    built(trigger, tmp_path, store, name="example.com/deps:images")
    result = built("FROM example.com/deps:images\n", tmp_path, store)
    assert tree_of(result, store)[0]["out/release"] == b"3\n"


def test_copying_from_an_image_and_a_stage_of_the_same_name(tmp_path: Path, store: Store) -> None:
    """testMultiStageImplicitFrom."""
    built("FROM scratch\nCOPY <<EOF /usr/bin/go\nimage\nEOF\n", tmp_path, store, name="golang")
    assert tree_of(built("FROM scratch\nCOPY --from=golang /usr/bin/go go\n", tmp_path, store), store)[0]["go"] == b"image\n"
    text = "FROM scratch AS golang\nCOPY <<EOF /usr/bin/go\nstage\nEOF\nFROM scratch\nCOPY --from=golang /usr/bin/go go\n"
    assert tree_of(built(text, tmp_path, store), store)[0]["go"] == b"stage\n"


def test_the_dockerfile_may_be_a_link_or_in_small_letters_or_elsewhere(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """testSymlinkedDockerfile, testDockerfileLowercase, testDockerfileDirs."""
    text = "FROM scratch\nCOPY foo /foo2\nCOPY foo /\n"
    digests = set()
    contexts: tuple[tuple[str, dict[str, Content]], ...] = (
        ("link", {"Dockerfile.web": text, "Dockerfile": ("Dockerfile.web",), "foo": "bar"}),
        ("small", {"dockerfile": text, "foo": "bar"}),
        ("elsewhere", {"foo": "bar"}),
    )
    for name, files in contexts:
        (tmp_path / name).mkdir()
        write(tmp_path / name, files)
    write(tmp_path, {"Dockerfile": text})
    for context, dockerfile in (("link", None), ("small", None), ("elsewhere", tmp_path / "Dockerfile")):
        request = BuildRequest(context=tmp_path / context, dockerfile=dockerfile)
        digests.add(build(request, store=store, progress=Silent(), host=HOST).digest)
    monkeypatch.chdir(tmp_path / "link")
    digests.add(build(BuildRequest(context=Path()), store=store, progress=Silent(), host=HOST).digest)
    assert len(digests) == 1


def test_a_second_build_leaves_nothing_more_in_the_store(tmp_path: Path, store: Store) -> None:
    """testNoSnapshotLeak."""
    write(tmp_path, {"Dockerfile": "FROM scratch\nCOPY foo /\n", "foo": "contents of this test only"})

    def layers() -> set[str]:
        build(BuildRequest(context=tmp_path), store=store, progress=Silent(), host=HOST)
        return {path.name for place in ("layers", "blobs/sha256", "tmp") for path in (store.home / place).iterdir()}

    assert layers() == layers()
