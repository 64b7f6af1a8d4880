"""Layers made of what a real overlay mount left, with `userxattr` as in containers, against what was seen in that mount."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from contain.store import RootView, Store

EPOCH = 946_684_800

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts overlay"),
]

# Prints everything about a tree but times, in the order of the walk.
LISTING = r"""
cd "$1" && find . -mindepth 1 \( -type f -printf 'file %p %m %U:%G ' -exec sha256sum {} \; \) \
  -o \( -type l -printf 'link %p %U:%G %l\n' \) \
  -o \( -type d -printf 'directory %p %m %U:%G\n' \) -o -printf '%y %p %m %U:%G\n' | sort
"""


def in_overlay(lower: list[Path], upper: Path, script: str) -> str:
    """Run a shell script in an overlay mount, in a mount namespace of its own; returns the listing that was seen at the end."""
    work, merged = upper.parent / "overlay-work", upper.parent / "merged"
    work.mkdir(exist_ok=True)
    merged.mkdir(exist_ok=True)
    options = f"userxattr,lowerdir={':'.join(str(path) for path in reversed(lower))},upperdir={upper},workdir={work}"
    mount = f"mount -t overlay overlay -o '{options}' '{merged}'"
    program = f"set -e; {mount}; cd '{merged}'; {script}\n cd /; set -- '{merged}'; {LISTING}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def new_upper(tmp_path: Path) -> Path:
    upper = tmp_path / "upper"
    upper.mkdir()
    upper.chmod(0o755)
    return upper


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tree = tmp_path / "base"
    script = """
    mkdir -p etc/deep/er usr/lib/x usr/bin var/log; echo root > etc/passwd; echo hosts > etc/hosts; echo deep > etc/deep/er/f
    echo lib > usr/lib/a.so; ln usr/lib/a.so usr/lib/b.so; ln -s usr/lib lib; echo sh > usr/bin/sh; chmod 4755 usr/bin/sh
    touch var/log/empty; chown 7:8 var/log; mkfifo var/pipe; mknod var/null c 1 3
    """
    tree.mkdir()
    tree.chmod(0o755)
    subprocess.run(["sh", "-ec", script], cwd=tree, check=True)
    return tree


def commit_and_compare(tmp_path: Path, base: Path, script: str) -> list[str]:
    upper = new_upper(tmp_path)
    seen = in_overlay([base], upper, script)
    with Store.open(tmp_path / "store") as store:
        committed = store.commit_layer(upper, lower=[base], epoch_seconds=EPOCH)
        if committed is None:
            assert in_overlay([base], new_upper(tmp_path), "") == seen
            return []
        tree = store.layer_tree(committed.diff_id)
        assert in_overlay([base, tree], new_upper(tmp_path), "") == seen
        with RootView([base, tree]) as view:
            paths = sorted("." + str(entry.path) for entry in view.walk() if str(entry.path) != "/")
        assert paths == sorted(line.split(" ")[1] for line in seen.splitlines())
        out = io.BytesIO()
        store.write_layer_tar(committed.diff_id, out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as opened:
            return opened.getnames()


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("true", []),
        ("chmod 644 etc/passwd; mv etc/hosts h; mv h etc/hosts; mv etc/passwd p; cp -p p etc/passwd; rm p", []),
        ("touch etc/passwd etc; cat etc/passwd > copy; rm copy", []),
        ("echo x > new", ["new"]),
        ("echo more >> etc/passwd", ["etc", "etc/passwd"]),
        ("rm etc/passwd", ["etc", "etc/.wh.passwd"]),
        ("rm -r etc", [".wh.etc"]),
        ("rm -r etc; mkdir etc; echo x > etc/new", ["etc", "etc/.wh.deep", "etc/.wh.hosts", "etc/.wh.passwd", "etc/new"]),
        ("rm -r etc; mkdir etc; echo root > etc/passwd", ["etc", "etc/.wh.deep", "etc/.wh.hosts"]),
        ("rm -r etc; echo x > etc", ["etc"]),
        ("rm lib; mkdir lib; echo x > lib/x", ["lib", "lib/x"]),
        ("rm etc/passwd; mkdir etc/passwd; echo x > etc/passwd/x", ["etc", "etc/passwd", "etc/passwd/x"]),
        ("rm -r usr/lib/x; ln -s /etc usr/lib/x", ["usr", "usr/lib", "usr/lib/x"]),
        ("chmod 700 var/log", ["var", "var/log"]),
        ("chown 1:2 etc/hosts", ["etc", "etc/hosts"]),
        ("chmod 711 .", ["."]),
        ("rm var/null; mknod var/null c 1 3", []),
        ("rm var/null; mknod var/null c 1 5; rm var/pipe; mkfifo -m 644 var/pipe", ["var", "var/null"]),
        ("ln usr/lib/a.so usr/lib/c.so", ["usr", "usr/lib", "usr/lib/a.so", "usr/lib/c.so"]),
        ("mkdir new; mv etc/hosts new/", ["etc", "etc/.wh.hosts", "new", "new/hosts"]),
        ("cp -a etc etc2; rm -r etc; mv etc2 etc", []),
        ("rm -r usr var etc lib", [".wh.etc", ".wh.lib", ".wh.usr", ".wh.var"]),
        ("echo a > gone; rm gone; mkdir d; rmdir d", []),
    ],
)
def test_a_layer_holds_exactly_what_changed_and_shows_what_was_seen(
    tmp_path: Path, base: Path, script: str, names: list[str]
) -> None:
    assert commit_and_compare(tmp_path, base, script) == names


def test_layers_upon_layers_show_what_was_seen_in_each(tmp_path: Path, base: Path) -> None:
    scripts = [
        "rm -r etc/deep; mkdir app; echo 1 > app/f",
        "mkdir etc/deep; echo back > etc/deep/f; rm app/f",
        "rm -r app; mkdir app; echo 2 > app/f; chmod 700 app",
        "mv app/f etc/f; rm -r usr/lib; mkdir usr/lib",
    ]
    with Store.open(tmp_path / "store") as store:
        trees = [base]
        for script in scripts:
            upper = new_upper(tmp_path)
            seen = in_overlay(trees, upper, script)
            committed = store.commit_layer(upper, lower=trees, epoch_seconds=EPOCH)
            assert committed is not None
            trees.append(store.layer_tree(committed.diff_id))
            # Committing only reworks the upper directory; what one sees through all layers is as it was.
            upper = new_upper(tmp_path)
            assert in_overlay(trees, upper, "") == seen
            for left in (upper, tmp_path / "overlay-work", tmp_path / "merged"):
                subprocess.run(["rm", "-rf", left], check=True)


def test_the_same_steps_twice_give_the_same_layer(tmp_path: Path, base: Path) -> None:
    script = "rm -r etc; mkdir etc; for i in $(seq 50); do echo $i > etc/f$i; done; ln etc/f1 usr/z; rm usr/bin/sh"
    digests = set()
    with Store.open(tmp_path / "store") as store:
        for number in range(2):
            place = tmp_path / str(number)
            place.mkdir()
            upper = new_upper(place)
            in_overlay([base], upper, script)
            committed = store.commit_layer(upper, lower=[base], epoch_seconds=EPOCH)
            assert committed is not None
            digests.add(committed.diff_id)
    assert len(digests) == 1


def test_an_upper_directory_on_another_file_system_gives_the_same_layer(tmp_path: Path, base: Path) -> None:
    """In a mount namespace of its own: a tmpfs holds the upper directory, the store is elsewhere."""
    program = """
import os, sys
from pathlib import Path
from contain.store import Store
home, upper, base = map(Path, sys.argv[1:])
(upper / "etc").mkdir()
os.chmod(upper, 0o755)
(upper / "etc/new").write_text("new")
os.link(upper / "etc/new", upper / "etc/newer")
os.mknod(upper / "etc/passwd", 0o20000, 0)
os.mknod(upper / "dev", 0o20600, os.makedev(1, 3))
os.chown(upper / "dev", 5, 6)
with Store.open(home) as store:
    print(store.commit_layer(upper, lower=[base], epoch_seconds=946684800))
    assert not upper.exists()
"""
    found = []
    for number, mount in enumerate(["true", "mount -t tmpfs tmpfs '{here}'"]):
        here = tmp_path / f"here{number}"
        here.mkdir()
        command = (
            mount.format(here=here)
            + f"; mkdir '{here}/upper'; exec python3 -c \"$0\" '{tmp_path}/home{number}' '{here}/upper' '{base}'"
        )
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["unshare", "-m", "sh", "-ec", command, program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1]
    assert "CommittedLayer" in found[0]
