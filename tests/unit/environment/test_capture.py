from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from contain.environment import (
    DirectoryFiles,
    Environment,
    Package,
    RootFiles,
    capture_host,
    capture_image,
    capture_root,
    compare,
)
from contain.environment.facts import UNREADABLE
from contain.oci import Descriptor, Image, ImageConfig, Manifest
from contain.store import RootView

SITE = "usr/local/lib/python3.11/site-packages"

STATUS = """Package: openssl
Status: install ok installed
Architecture: amd64
Version: 3.0.15-1
Description: secure
 folded: line
 Version: 9

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-9
"""


def archive(*names: str) -> bytes:
    """A glibc locale archive with nothing but names."""
    head = 14 * 4
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    base = head + 12 * (len(names) + 1)
    rows, at = [struct.pack("=3I", 0, 0, 0)], base + 1
    for name in names:
        rows.append(struct.pack("=3I", 1, at, 99))
        at += len(name) + 1
    header = struct.pack("=5I", 0xDE020109, 1, head, len(names), len(names) + 1) + bytes(head - 20)
    return header + b"".join(rows) + strings


def write(root: Path, path: str, content: str | bytes = "", mode: int = 0o644) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content.encode() if isinstance(content, str) else content)
    place.chmod(mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    write(root, "usr/lib/os-release", 'ID=debian\nVERSION_ID="12"\nBUG_REPORT_URL="x"\n# c\n')
    (root / "etc").mkdir()
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")  # absolute: must be resolved inside the root
    write(root, "var/lib/dpkg/status", STATUS)
    write(root, "var/lib/dpkg/info/openssl.list", "/.\n/bin\n/bin/openssl\n/etc\n/etc/ssl.conf\n/usr/bin/diverted\n")
    write(root, "var/lib/dpkg/info/libc6:amd64.list", "/.\n/lib64/ld-linux-x86-64.so.2\n")
    write(root, "var/lib/dpkg/diversions", "/usr/bin/diverted\n/usr/bin/diverted.real\nother\n")
    write(root, "usr/bin/openssl", "binary", 0o755)
    write(root, "usr/bin/diverted.real", "d", 0o755)
    write(root, "etc/ssl.conf", "conf")
    write(root, "lib64/ld-linux-x86-64.so.2", "elf", 0o755)
    (root / "etc/alternatives").mkdir()
    (root / "etc/alternatives/tls").symlink_to("/usr/bin/openssl")
    (root / "usr/bin/tls").symlink_to("/etc/alternatives/tls")
    write(
        root, f"{SITE}/PyYAML-6.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0.1\n\nName: trick\n"
    )
    write(
        root,
        f"{SITE}/PyYAML-6.0.1.dist-info/RECORD",
        "yaml/__init__.py,,\n../../../bin/yamltool,,\nPyYAML-6.0.1.dist-info/METADATA,,\n",
    )
    write(root, f"{SITE}/yaml/__init__.py", "x = 1\n")
    write(root, "usr/local/bin/yamltool", "#!", 0o755)
    write(root, f"{SITE}/mine-1.0.dist-info/METADATA", "Name: mine\nVersion: 1.0\n")
    write(
        root, f"{SITE}/mine-1.0.dist-info/direct_url.json", json.dumps({"url": "file:///src", "dir_info": {"editable": True}})
    )
    write(root, f"{SITE}/old-2.egg-info/PKG-INFO", "Name: old\nVersion: 2\n")
    write(root, f"{SITE}/pip/_vendor/hidden-1.dist-info/METADATA", "Name: hidden\nVersion: 1\n")
    write(root, "usr/local/lib/node_modules/@scope/tool/package.json", '{"name": "@scope/tool", "version": "1.2.3"}')
    write(root, "usr/local/lib/node_modules/@scope/tool/index.js", "1")
    write(root, "usr/local/lib/node_modules/npm/package.json", '{"version": "10.2.4"}')
    write(root, "usr/local/lib/node_modules/npm/node_modules/inner/package.json", '{"version": "1.0.0"}')
    write(
        root, "lib/apk/db/installed", "P:busybox\nV:1.36.1-r2\nA:x86_64\nF:sbin\nR:busybox\nZ:Q1\n\nP:musl\nV:1.2\nA:x86_64\n"
    )
    write(root, "sbin/busybox", "bb", 0o4755)
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:SECRET-HASH:1000:1000::/home/app:/bin/false\n")
    write(root, "etc/group", "root:x:0:\napp:x:1000:www\n")
    write(root, "usr/lib/locale/locale-archive", archive("de_DE.utf8", "en_US.utf8"))
    (root / "usr/lib/locale/C.utf8").mkdir()
    return root


def captured(view: RootFiles) -> Environment:
    return capture_root(view, name="x", kind="directory", secret_key=b"k")


@pytest.fixture(params=["plain directory", "layer tree"])
def found(request: pytest.FixtureRequest, root: Path) -> Environment:
    return captured(DirectoryFiles(str(root)) if request.param == "plain directory" else RootView([root]))


def test_packages_of_every_manager_are_found(found: Environment) -> None:
    assert found.packages["dpkg"] == {
        "libc6": (Package(version="2.36-9", place="amd64"), Package(version="2.36-9", place="i386")),
        "openssl": (Package(version="3.0.15-1", place="amd64"),),
    }
    assert found.packages["apk"]["busybox"] == (Package(version="1.36.1-r2", place="x86_64"),)
    assert found.packages["python"] == {
        "mine": (Package(version="1.0", place=f"/{SITE}", note="editable"),),
        "old": (Package(version="2", place=f"/{SITE}"),),
        "pyyaml": (Package(version="6.0.1", place=f"/{SITE}"),),
    }
    assert {name: installs[0].version for name, installs in found.packages["npm"].items()} == {
        "@scope/tool": "1.2.3",
        "npm": "10.2.4",
    }


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("/usr/bin/openssl", "dpkg:openssl"),  # listed as /bin/openssl
        ("/etc/ssl.conf", "dpkg:openssl"),
        ("/usr/bin/diverted.real", "dpkg:openssl"),
        ("/etc/alternatives/tls", "dpkg:openssl"),
        ("/usr/bin/tls", "dpkg:openssl"),
        ("/lib64/ld-linux-x86-64.so.2", "dpkg:libc6"),
        (f"/{SITE}/yaml/__init__.py", "python:pyyaml"),
        ("/usr/local/bin/yamltool", "python:pyyaml"),
        ("/usr/local/lib/node_modules/@scope/tool/index.js", "npm:@scope/tool"),
        ("/usr/local/lib/node_modules/npm/node_modules/inner/package.json", "npm:npm"),
        ("/sbin/busybox", "apk:busybox"),
        ("/etc/passwd", ""),
        ("/etc", ""),
    ],
)
def test_a_path_belongs_to_the_package_that_lists_it(path: str, owner: str, found: Environment) -> None:
    assert found.files[path].package == owner


def test_facts_of_the_system_are_read_inside_the_root(found: Environment) -> None:
    assert found.facts["os-release"] == {"ID": "debian", "VERSION_ID": "12"}
    assert found.facts["libc"] == {"flavour": "glibc"}
    assert found.facts["locales"] == {"installed": ("C.utf8", "de_DE.utf8", "en_US.utf8")}
    assert found.facts["users"] == {"app": "1000:1000:/home/app:/bin/false", "root": "0:0:/root:/bin/sh"}
    assert found.facts["groups"] == {"app": "1000:www", "root": "0:"}


def test_files_are_kept_with_mode_kind_target_and_digest(found: Environment, root: Path) -> None:
    busybox = found.files["/sbin/busybox"]
    assert (busybox.kind, busybox.mode, busybox.size_bytes) == ("file", 0o4755, 2)
    assert busybox.digest == "sha256:" + hashlib.sha256(b"bb").hexdigest()
    assert found.files["/bin"].target == "usr/bin"
    assert found.files["/"].kind == "directory"
    assert set(found.files) == {"/"} | {
        "/" + os.path.relpath(os.path.join(top, name), root) for top, dirs, names in os.walk(root) for name in (*dirs, *names)
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="what belongs to an ordinary user belongs to root in its layers")
def test_both_views_of_one_root_give_the_same_facts(root: Path) -> None:
    assert captured(DirectoryFiles(str(root))) == captured(RootView([root]))


def test_password_hashes_never_get_into_a_capture(found: Environment) -> None:
    assert "SECRET-HASH" not in repr(found)


def test_an_image_is_captured_with_its_config_and_identity(root: Path) -> None:
    config = ImageConfig(
        diff_ids=("sha256:" + "1" * 64,),
        environment=(("PATH", "/bin"), ("API_TOKEN", "hunter2")),
        user="app",
        command=("sh",),
        labels={"a": "b"},
    )
    digest = "sha256:" + "2" * 64
    layer = Descriptor(media_type="m", digest="sha256:" + "3" * 64, size=1)
    manifest = Manifest(config=Descriptor(media_type="c", digest="sha256:" + "4" * 64, size=1), layers=(layer,))
    image = Image(digest=digest, manifest=manifest, config=config)
    found = capture_image(image, RootView([root]), name="ci", secret_key=b"k", source="registry docker.io")
    assert found.identity.manifest_digest == digest
    assert found.identity.layer_digests == (layer.digest,)
    assert found.identity.source == "registry docker.io"
    assert found.facts["image-config"] == {"command": ("sh",), "label a": "b", "platform": "linux/amd64", "user": "app"}
    assert found.facts["image-environment"]["PATH"] == "/bin"
    assert "hunter2" not in repr(found)


def test_files_of_packages_only_and_no_files(root: Path) -> None:
    view = DirectoryFiles(str(root))
    owned = capture_root(view, name="x", kind="directory", secret_key=b"", files="packages-only")
    assert set(owned.files) == {path for path, fact in captured(view).files.items() if fact.package}
    none = capture_root(view, name="x", kind="directory", secret_key=b"", files="none")
    assert (none.files, none.file_scope) == ({}, "none")
    assert none.packages == owned.packages


def test_the_host_leaves_out_its_state_and_what_it_is_told(root: Path) -> None:
    write(root, "proc/1/status", "x")
    write(root, "store/layers/a", "x")
    found = capture_host(secret_key=b"", root=str(root), skip=("/store",), files="all")
    assert not [path for path in found.files if path.startswith(("/proc", "/store"))]
    assert "/store" in found.file_skips
    assert found.kind == "host"


def test_an_rpm_database_is_named_as_not_read(root: Path) -> None:
    write(root, "var/lib/rpm/rpmdb.sqlite", "x")
    found = captured(DirectoryFiles(str(root)))
    assert "not read yet" in found.missing["rpm"]
    assert compare(found, found).not_comparable[0].what == "rpm packages"


def test_a_file_that_cannot_be_read_is_unreadable_not_empty(root: Path) -> None:
    view = DirectoryFiles(str(root))
    entries = list(view.walk())
    os.unlink(root / "etc/ssl.conf")
    view.walk = lambda: iter(entries)  # type: ignore[method-assign]
    assert captured(view).files["/etc/ssl.conf"].digest == UNREADABLE


def test_a_remembered_digest_saves_reading_the_file(root: Path) -> None:
    class Cache:
        def __init__(self) -> None:
            self.kept: dict[int, str] = {}
            self.hits = 0

        def lookup(self, found: os.stat_result) -> str | None:
            self.hits += found.st_ino in self.kept
            return self.kept.get(found.st_ino)

        def remember(self, found: os.stat_result, digest: str) -> None:
            self.kept[found.st_ino] = digest

    cache = Cache()
    view = DirectoryFiles(str(root))
    first = capture_root(view, name="x", kind="directory", secret_key=b"", digests=cache)
    assert cache.hits == 0
    second = capture_root(view, name="x", kind="directory", secret_key=b"", digests=cache)
    assert first == second
    assert cache.hits == sum(fact.kind == "file" for fact in first.files.values())


HOSTILE = {
    "var/lib/dpkg/status": b"\xff\xfe\0Package\n: \n\nPackage: a\nVersion: 1\n",
    "var/lib/dpkg/info/a.list": b"/" + b"a/" * 5000 + b"\n//x\n/../../etc\n",
    "var/lib/dpkg/diversions": b"/a\n",
    f"{SITE}/x-1.dist-info/METADATA": b"\0\xff",
    f"{SITE}/y-1.dist-info/METADATA": b"Name: y\nVersion: 1\n",
    f"{SITE}/y-1.dist-info/RECORD": b'"unclosed\n' + b"../" * 3000 + b"etc,,\n\0",
    f"{SITE}/y-1.dist-info/direct_url.json": b"[" * 5000,
    "usr/local/lib/node_modules/z/package.json": b"[" * 100_000,
    "lib/apk/db/installed": b"R:x\nF\nP:\nV:1\n\nP:q\nV:1\nF:..\nR:../..\n",
    "etc/os-release": b"=\n\xff=1\nID='\n",
    "etc/passwd": b":::\n\xff:x\n",
    "usr/lib/locale/locale-archive": struct.pack("=5I", 0xDE020109, 1, 0xFFFFFFF0, 1, 0xFFFFFFFF),
}


def test_hostile_databases_never_raise(tmp_path: Path) -> None:
    for path, content in HOSTILE.items():
        write(tmp_path, path, content)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to("../../../../..")
    found = captured(DirectoryFiles(str(tmp_path)))
    assert set(found.packages["python"]) == {"y"}
    assert found.packages["dpkg"] == {"a": (Package(version="1", place=""),)}
    assert found.facts["locales"] == {"installed": ()}


def test_links_are_never_followed_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path, "secret", "outside")
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").symlink_to("../../secret")
    (root / "etc/passwd").symlink_to(str(tmp_path / "secret"))
    view = DirectoryFiles(str(root))
    for path in ("/etc/os-release", "/etc/passwd"):
        with pytest.raises(OSError, match="No such file"):
            view.read(path, limit_bytes=100)
