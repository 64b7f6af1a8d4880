"""Owners, devices and capabilities as root; what an ordinary user can and cannot have in a store; a full disk."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from contain.errors import IntegrityError
from contain.oci import digest_of
from contain.progress import Silent
from contain.store import RootView, Store

EPOCH = 946_684_800
LAYER = "application/vnd.oci.image.layer.v1.tar"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to other users, makes devices"),
]


def new_tree(tmp_path: Path, name: str = "upper") -> Path:
    tree = tmp_path / name
    tree.mkdir()
    tree.chmod(0o755)
    return tree


def archive_of(store: Store, diff_id: str) -> bytes:
    out = io.BytesIO()
    store.write_layer_tar(diff_id, out)
    return out.getvalue()


def test_owners_devices_and_setuid_bits_survive_both_ways(tmp_path: Path) -> None:
    tree = new_tree(tmp_path)
    (tree / "home").mkdir()
    os.chown(tree / "home", 1000, 1001)
    (tree / "home").chmod(0o2750)
    (tree / "sudo").write_bytes(b"x")
    os.chown(tree / "sudo", 5, 6)
    (tree / "sudo").chmod(0o6755)
    (tree / "link").symlink_to("sudo")
    os.chown(tree / "link", 7, 8, follow_symlinks=False)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "sda", stat.S_IFBLK | 0o660, os.makedev(8, 300))
    (tree / "big").write_bytes(b"")
    os.chown(tree / "big", 4_000_000_000, 3_000_000_000)
    with Store.open(tmp_path / "one") as one, Store.open(tmp_path / "two") as two:
        committed = one.commit_layer(tree, lower=(), epoch_seconds=EPOCH)
        assert committed is not None
        data = archive_of(one, committed.diff_id)
        two.extract_layer(io.BytesIO(data), diff_id=committed.diff_id, media_type=LAYER, progress=Silent(), label="")
        found = {}
        with RootView([two.layer_tree(committed.diff_id)]) as view:
            for entry in view.walk():
                found[str(entry.path)] = (
                    entry.kind.value,
                    0 if entry.link_target else entry.mode,
                    entry.uid,
                    entry.gid,
                    entry.device,
                )
    del found["/"]
    assert found == {
        "/big": ("file", stat.S_IMODE(0o666 & ~current_umask()), 4_000_000_000, 3_000_000_000, (0, 0)),
        "/home": ("directory", 0o2750, 1000, 1001, (0, 0)),
        "/link": ("symlink", 0, 7, 8, (0, 0)),
        "/null": ("character", stat.S_IMODE(0o666 & ~current_umask()), 0, 0, (1, 3)),
        "/sda": ("block", stat.S_IMODE(0o660 & ~current_umask()), 0, 0, (8, 300)),
        "/sudo": ("file", 0o6755, 5, 6, (0, 0)),
    }


def current_umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_a_capability_survives_and_its_revision_does_not_matter(tmp_path: Path) -> None:
    """Revision 3 with root id 0 is what a container's setcap writes, revision 2 what the host's does."""
    revision_2 = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    revision_3 = struct.pack("<IIIIII", 0x03000001, 1 << 10, 0, 0, 0, 0)
    digests = set()
    with Store.open(tmp_path / "store") as store:
        for number, value in enumerate((revision_2, revision_3)):
            tree = new_tree(tmp_path, f"upper{number}")
            (tree / "ping").write_bytes(b"x")
            (tree / "ping").chmod(0o755)
            os.setxattr(tree / "ping", "security.capability", value)
            committed = store.commit_layer(tree, lower=(), epoch_seconds=EPOCH)
            assert committed is not None
            digests.add(committed.diff_id)
        (diff_id,) = digests
        with tarfile.open(fileobj=io.BytesIO(archive_of(store, diff_id)), encoding="latin-1") as opened:
            (member,) = opened.getmembers()
        assert member.pax_headers["SCHILY.xattr.security.capability"].encode("latin-1", "surrogateescape")[:4] == revision_2[:4]


def test_a_capability_makes_a_difference_that_is_kept(tmp_path: Path) -> None:
    lower, upper = new_tree(tmp_path, "lower"), new_tree(tmp_path)
    for tree in (lower, upper):
        (tree / "ping").write_bytes(b"x")
        (tree / "ping").chmod(0o755)
    os.setxattr(upper / "ping", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    with Store.open(tmp_path / "store") as store:
        assert store.commit_layer(upper, lower=[lower], epoch_seconds=EPOCH) is not None


def test_a_hard_link_to_a_device_stays_one_device(tmp_path: Path) -> None:
    tree = new_tree(tmp_path)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.link(tree / "null", tree / "zero")
    with Store.open(tmp_path / "store") as store, Store.open(tmp_path / "two") as two:
        committed = store.commit_layer(tree, lower=(), epoch_seconds=EPOCH)
        assert committed is not None
        data = archive_of(store, committed.diff_id)
        two.extract_layer(io.BytesIO(data), diff_id=committed.diff_id, media_type=LAYER, progress=Silent(), label="")
        assert (two.layer_tree(committed.diff_id) / "null").samefile(two.layer_tree(committed.diff_id) / "zero")


# The interpreter is preloaded as root: an ordinary user may not be able to read the checkout.
USER_PROGRAM = """
import io, sys
from pathlib import Path
from contain.errors import ContainError
from contain.oci import digest_of
from contain.progress import Silent
from contain.store import RootView, Store
home, archive, action = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
data = open(archive, "rb").read()
os.umask(0o077)
with Store.open(home) as store:
    try:
        if action == "import":
            print(store.import_layer(io.BytesIO(data), progress=Silent()))
        else:
            media_type = "application/vnd.oci.image.layer.v1.tar"
            store.extract_layer(io.BytesIO(data), diff_id=digest_of(data), media_type=media_type, progress=Silent(), label="")
            with RootView([store.layer_tree(digest_of(data))]) as view:
                print([(str(entry.path), entry.uid, entry.gid, oct(entry.mode)) for entry in view.walk()])
    except ContainError as error:
        print(type(error).__name__, error.code, error)
    print(sorted(path.name for path in (home / "tmp").iterdir()))
"""


# Everything of the store, since much of it is imported only when it is needed.
PRELOAD = (
    "import pkgutil, importlib, hashlib, sqlite3, filelock, tempfile, contain.store, contain.oci, contain.progress\n"
    "contain.oci.digest_of(b'')\n"
    "for each in pkgutil.iter_modules(contain.store.__path__, 'contain.store.'):\n    importlib.import_module(each.name)\n"
)


def user_run(tmp_path: Path, data: bytes, action: str) -> str:
    home, archive = tmp_path / "user" / "home", tmp_path / "user" / "layer.tar"
    home.parent.mkdir(exist_ok=True)
    os.chown(home.parent, 54321, 54321)
    archive.write_bytes(data)
    archive.chmod(0o644)
    for parent in tmp_path.parents:
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    program = (
        PRELOAD
        + f"import os; os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)\n{USER_PROGRAM}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(home), str(archive), action],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pack(*members: tuple[str, int, int, int]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, mode, user_id, group_id in members:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.mode, member.uid, member.gid = mode, user_id, group_id
            writer.addfile(member)
    return out.getvalue()


def test_an_ordinary_user_has_roots_layers_with_the_same_digests(tmp_path: Path) -> None:
    data = pack(("etc/", 0o555, 0, 0), ("etc/f", 0o400, 0, 0), (".wh.gone", 0o644, 0, 0), ("sudo", 0o4755, 0, 0))
    assert user_run(tmp_path, data, "extract") == (
        "[('/', 0, 0, '0o755'), ('/etc', 0, 0, '0o555'), ('/etc/f', 0, 0, '0o400'), ('/sudo', 0, 0, '0o4755')]\n[]\n"
    )
    with Store.open(tmp_path / "root") as store:
        expected = store.import_layer(io.BytesIO(data), progress=Silent())
    assert user_run(tmp_path, data, "import") == f"{expected}\n[]\n"


@pytest.mark.parametrize("owner", [(33, 33), (0, 33), (54321, 54321)])
def test_an_ordinary_user_is_told_when_a_layer_has_more_than_one_owner(tmp_path: Path, owner: tuple[int, int]) -> None:
    out = user_run(tmp_path, pack(("etc/", 0o555, 0, 0), ("www", 0o644, *owner)), "extract")
    assert out.startswith("HostError store-needs-root 'www' belongs to ")
    assert "run as root" in out
    assert out.endswith("\n[]\n")


def test_an_ordinary_user_cannot_use_roots_store_and_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    Store.open(tmp_path / "user" / "home").close()
    home = tmp_path / "user" / "home"
    for parent in (tmp_path, tmp_path / "user", *tmp_path.parents):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)
    program = (
        f"{PRELOAD}\nfrom contain.errors import HostError\nfrom pathlib import Path\nimport os, sys\n"
        "os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)\n"
        "try:\n    contain.store.Store.open(Path(sys.argv[1]))\nexcept HostError as error:\n    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )
    assert done.stdout == "store-permission\n", done.stderr


FULL_PROGRAM = """
import io, os, sys
from pathlib import Path
from contain.errors import HostError
from contain.oci import digest_of
from contain.progress import Silent
from contain.store import Store
home, archive = Path(sys.argv[1]), Path(sys.argv[2])
data = archive.read_bytes()
with Store.open(home) as store:
    store.images()
    def pull():
        media_type = "application/vnd.oci.image.layer.v1.tar"
        store.extract_layer(io.BytesIO(data), diff_id=digest_of(data), media_type=media_type, progress=Silent(), label="")
    def ingest():
        with store.ingest_blob(digest_of(data), len(data)) as incoming:
            incoming.write(data)
            incoming.commit()
    def write():
        store.write_blob(data)
    for action in (pull, ingest, write):
        try:
            action()
            print("no error")
        except HostError as error:
            print(error.code)
        print([list((home / name).iterdir()) for name in ("layers", "blobs/sha256", "tmp")])
    for path in (home / "ingest").iterdir():
        path.unlink()
    print(store.read_blob(store.write_blob(b"there is room again")))
"""


def test_a_full_disk_says_so_and_leaves_nothing_half_visible(tmp_path: Path) -> None:
    archive = tmp_path / "layer.tar"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for number in range(8):
            member = tarfile.TarInfo(f"f{number}")
            member.size = 1 << 20
            writer.addfile(member, io.BytesIO(os.urandom(1 << 20)))
    archive.write_bytes(out.getvalue())
    (tmp_path / "small").mkdir()
    small = tmp_path / "small"
    command = f"mount -t tmpfs -o size=4m tmpfs '{small}'; exec '{sys.executable}' -c \"$0\" '{small}/home' '{archive}'"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", command, FULL_PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "store-full\n[[], [], []]\n" * 3 + "b'there is room again'\n", done.stderr


MOUNT_PROGRAM = """
import subprocess, sys
from pathlib import Path
from contain.store import Store
with Store.open(Path(sys.argv[1])) as store:
    with store.scratch("x") as path:
        for name in ("a", "b/c"):
            (path / name).mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / name], check=True)
            (path / name / "precious").touch()
    print([(path / name / "precious").exists() for name in ("a",)])
    subprocess.run(["umount", path / "a"], check=True)
"""


def test_removing_a_scratch_directory_empties_no_mount_in_it(tmp_path: Path) -> None:
    command = ["unshare", "-m", sys.executable, "-c", MOUNT_PROGRAM, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[True]\n", done.stderr
    with Store.open(tmp_path / "home"):
        assert os.listdir(tmp_path / "home" / "tmp") == []


def test_a_layer_with_a_device_that_hides_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        member = tarfile.TarInfo("etc")
        member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 0, 0
        writer.addfile(member)
    data = out.getvalue()
    with Store.open(tmp_path / "store") as store, pytest.raises(IntegrityError, match="0:0"):
        store.extract_layer(io.BytesIO(data), diff_id=digest_of(data), media_type=LAYER, progress=Silent(), label="")


@pytest.mark.parametrize("tool", ["umoci", "skopeo"])
def test_other_engines_read_an_image_of_the_store(tmp_path: Path, tool: str) -> None:
    """The store's blobs and a layer's archive, put together as an OCI layout with an index."""
    import json
    import shutil

    from contain.oci import Descriptor, ImageConfig

    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    with Store.open(tmp_path / "store") as store:
        trees: list[Path] = []
        descriptors = []
        for number in range(2):
            tree = new_tree(tmp_path, f"upper{number}")
            (tree / "etc").mkdir()
            (tree / "etc" / f"f{number}").write_text("x")
            os.chown(tree / "etc" / f"f{number}", 33, 33)
            (tree / ("é" * 60)).touch()
            if number == 1:
                os.mknod(tree / "etc" / "f0", stat.S_IFCHR, 0)
                os.link(tree / "etc/f1", tree / "hard")
            committed = store.commit_layer(tree, lower=trees, epoch_seconds=EPOCH)
            assert committed is not None
            trees.append(store.layer_tree(committed.diff_id))
            descriptors.append(Descriptor(media_type=LAYER, digest=committed.diff_id, size=committed.size_bytes))
        image = store.put_image(ImageConfig(diff_ids=tuple(layer.digest for layer in descriptors)), descriptors)
        layout = tmp_path / "layout"
        shutil.copytree(store.home / "blobs", layout / "blobs")
        (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        for layer in descriptors:
            (layout / "blobs/sha256" / layer.digest[7:]).write_bytes(archive_of(store, layer.digest))
        size = len(store.read_blob(image.digest))
        entry = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.digest,
            "size": size,
            "annotations": {"org.opencontainers.image.ref.name": "x"},
        }
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    if tool == "skopeo":
        copy = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:x", f"dir:{tmp_path}/copy"]
        done = subprocess.run(copy, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return
    done = subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:x", str(tmp_path / "bundle")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "bundle" / "rootfs"
    assert sorted(os.listdir(root / "etc")) == ["f1"]
    assert (root / "etc/f1").stat().st_uid == 33
    assert (root / "hard").samefile(root / "etc/f1")
    assert (root / ("é" * 60)).exists()
