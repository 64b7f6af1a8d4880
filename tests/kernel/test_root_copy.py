"""What changes in a copied root becomes the same layer as what changes in a real overlay of the same layers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from contain.store import Store
from contain.store.root_copy import copy_root, extract_changes

EPOCH = 946_684_800

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts overlay"),
]

TOOLS = f"""
attribute() {{ {sys.executable} -c 'import os, sys
path, name, *value = sys.argv[1:]
os.setxattr(path, name, value[0].encode()) if value else os.removexattr(path, name)' "$@"; }}
capable() {{ {sys.executable} -c 'import os, sys
os.setxattr(sys.argv[1], "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))' "$@"; }}
listen() {{ {sys.executable} -c 'import socket, sys
socket.socket(socket.AF_UNIX).bind(sys.argv[1])' "$@"; }}
"""
BASE = """
mkdir -p etc/deep/er usr/lib/x usr/bin var/log app/data
echo root > etc/passwd; echo deep > etc/deep/er/f; echo lib > usr/lib/a.so; ln usr/lib/a.so usr/lib/b.so; ln -s usr/lib lib
echo sh > usr/bin/sh; chmod 4755 usr/bin/sh; echo ping > usr/bin/ping; attribute usr/bin/ping user.note here
touch var/log/empty; chown 7:8 var/log; mkfifo var/pipe; mknod var/null c 1 3
echo one > app/data/one; echo two > app/data/two; touch -d @900000000.123456789 etc/passwd app/data/one
"""
MORE = """
mkdir -p etc app/data; echo changed > etc/passwd; touch -d @900000000 etc/passwd; mknod app/data/two c 0 0; echo three > app/data/three
mkdir -p usr/lib/x; attribute usr/lib/x user.overlay.opaque y; echo new > usr/lib/x/n
"""

STEPS = {
    "nothing": "true",
    "a file of the same size and time": "cp -p etc/passwd t; printf r00t 1<>etc/passwd; touch -r t etc/passwd; rm t",
    "a file that was only touched": "touch etc/passwd usr/bin/sh",
    "a file that was written again as it was": "cat etc/passwd > new; cat new > etc/passwd; rm new",
    "a removed file": "rm etc/passwd app/data/three",
    "a removed directory": "rm -r etc/deep app",
    "a directory in place of a file": "rm etc/passwd; mkdir etc/passwd; echo x > etc/passwd/x",
    "a file in place of a directory": "rm -r app; echo file > app",
    "a link in place of a directory": "rm -r app; ln -s etc app",
    "a directory that was made again": "rm -r app/data; mkdir app/data; echo one > app/data/one",
    "a new name of a file": "ln etc/passwd etc/other",
    "a change of one of two names": "chmod 600 usr/lib/a.so",
    "a change of both names": "chown -R 5:6 usr/lib",
    "new files with two names": "echo x > x; ln x y; mkdir z; ln x z/x",
    "one of two names is gone": "rm usr/lib/b.so",
    "an attribute": "attribute etc/passwd user.tag one; attribute usr/bin/ping user.note; attribute var/log user.dir d",
    "a capability": "capable usr/bin/ping",
    "a setuid bit": "chmod u+s usr/bin/ping; chmod u-s usr/bin/sh",
    "owners": "chown 12:34 usr/bin/sh var/log etc; chown -h 9:9 lib",
    "the root directory itself": "chmod 700 .; chown 3:4 .",
    "nodes": "rm var/pipe var/null; mkfifo var/other; mkdir -m 1777 tmp",
    "a socket in place of a file": "rm etc/passwd; listen etc/passwd",
    "moves": "mv usr/bin/sh usr/bin/bash; mv app/data app/moved",
    "a hole": "truncate -s 3M etc/hole; printf x | dd of=etc/hole bs=1 seek=2000000 conv=notrunc status=none",
}


def make_tree(path: Path, script: str) -> Path:
    path.mkdir()
    path.chmod(0o755)
    subprocess.run(["sh", "-ec", TOOLS + script], cwd=path, check=True)
    return path


def change_overlay(lower: Sequence[Path], upper: Path, script: str) -> None:
    work, merged = upper.parent / "work", upper.parent / "merged"
    upper.mkdir()
    upper.chmod(0o755)
    work.mkdir()
    merged.mkdir()
    options = f"userxattr,lowerdir={':'.join(str(path) for path in reversed(lower))},upperdir={upper},workdir={work}"
    program = f"set -e; mount -t overlay overlay -o '{options}' '{merged}'; cd '{merged}'; {TOOLS}{script}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def change_copy(lower: Sequence[Path], place: Path, script: str, *, move: bool) -> Path:
    copy, upper = place / "copy", place / "changes"
    copy.mkdir(parents=True)
    copy_root(lower, copy)
    done = subprocess.run(["sh", "-ec", TOOLS + script], cwd=copy, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    extract_changes(copy, lower, upper, move=move)
    return upper


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    return [make_tree(tmp_path / "base", BASE), make_tree(tmp_path / "more", MORE)]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_makes_the_same_layer_in_a_copy_as_in_an_overlay(tmp_path: Path, layers: list[Path], step: str) -> None:
    change_overlay(layers, tmp_path / "upper", STEPS[step])
    taken = change_copy(layers, tmp_path / "taken", STEPS[step], move=True)
    left = change_copy(layers, tmp_path / "left", STEPS[step], move=False)
    with Store.open(tmp_path / "store") as store:
        made = [store.commit_layer(each, lower=layers, epoch_seconds=EPOCH) for each in (tmp_path / "upper", taken, left)]
    assert made[1] == made[0]
    assert made[2] == made[0]
    unchanged = ("nothing", "a file that was only touched", "a file that was written again as it was")
    assert (made[0] is None) == (step in unchanged)
