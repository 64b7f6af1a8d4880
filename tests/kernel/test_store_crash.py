"""Several processes on one store, each killed in the middle of its work: what is visible afterwards is whole."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contain.oci import digest_of
from contain.store import Store
from contain.store.rooted import Root
from contain.store.tree import canonical_tar

# Does everything that changes a store, again and again, until it is killed.
WORKER = """
import gzip, io, random, sys
from contextlib import suppress
from pathlib import Path
from contain.errors import NotFound
from contain.oci import Descriptor, ImageConfig, digest_of
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import StepRecord, Store
LAYER = "application/vnd.oci.image.layer.v1.tar"
home, seed = Path(sys.argv[1]), int(sys.argv[2])
dice = random.Random(seed)
print("ready", flush=True)
while True:
    # Not found: another process pruned without the hour's grace that honest users give each other.
    with suppress(NotFound), Store.open(home) as store:
        content = dice.randrange(40)
        with store.scratch("upper") as upper:
            for inner in range(30):
                (upper / f"f{inner}").write_text(f"{content} {inner}" * 100)
            layer = store.commit_layer(upper, lower=(), epoch_seconds=946684800)
        out = io.BytesIO()
        store.write_layer_tar(layer.diff_id, out)
        assert digest_of(out.getvalue()) == layer.diff_id
        packed = gzip.compress(out.getvalue(), mtime=0)
        with store.ingest_blob(digest_of(packed), len(packed)) as incoming:
            rest = packed[incoming.offset:]
            for start in range(0, len(rest), 200):
                incoming.write(rest[start:start + 200])
            incoming.commit()
        blob = Descriptor(media_type=LAYER + "+gzip", digest=digest_of(packed), size=len(packed))
        image = store.put_image(ImageConfig(diff_ids=(layer.diff_id,)), [blob])
        store.tag(parse_reference(f"image{dice.randrange(5)}"), image.digest, source="build")
        store.record_step(StepRecord(key=str(content), position="1", ingredients="{}", diff_id=layer.diff_id))
        found = store.cached_step(str(content))
        assert found is None or found.diff_id == layer.diff_id
        if dice.random() < 0.3:
            store.prune(grace_seconds=dice.choice([0, 3600]))
"""


def verify(store: Store) -> int:
    """Everything visible is what its name promises. Returns how many images there are."""
    for path in (store.home / "blobs/sha256").iterdir():
        assert digest_of(path.read_bytes()) == f"sha256:{path.name}"
    for path in (store.home / "layers").iterdir():
        digest = hashlib.sha256()
        with Root(path / "tree") as root:
            for data in canonical_tar(root, root_entry=False):
                digest.update(data)
        assert digest.hexdigest() == path.name
    images = store.images()
    for row in images:
        image = store.image(row.digest)
        assert len(store.layer_trees(image)) == 1
        if store.has_blob(image.manifest.layers[0].digest):
            with store.open_blob(image.manifest.layers[0].digest) as blob:
                assert digest_of(gzip.decompress(blob.read())) == image.config.diff_ids[0]
        for name in row.names:
            assert store.find_image(name).digest == row.digest
    return len(images)


def test_a_store_survives_processes_that_are_killed_at_any_moment(tmp_path: Path) -> None:
    home = tmp_path / "home"
    dice = random.Random(1)
    for round_number in range(6):
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(home), str(10 * round_number + number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(3)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None
                assert worker.stdout.readline() == b"ready\n"
            for worker in workers:
                time.sleep(dice.random() * 0.3)
                assert worker.poll() is None, worker.communicate()[1].decode()
                worker.send_signal(signal.SIGKILL)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        with Store.open(home) as store:
            assert [path for path in (home / "tmp").iterdir() if path.is_dir()] == [], "opening removes what the dead left"
            images = verify(store)
    assert images > 0
    with Store.open(home) as store:
        store.prune(grace_seconds=0)
        assert verify(store) > 0
        assert list((home / "leases").iterdir()) == []


def test_a_scratch_directory_lives_exactly_as_long_as_its_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from contain.store import Store; store = Store.open(Path(sys.argv[1])); "
        "scratch = store.scratch('x'); (scratch.__enter__() / 'f').touch(); print('ready', flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "home")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        with Store.open(tmp_path / "home") as store:
            assert len(os.listdir(store.home / "tmp")) == 1
    finally:
        worker.kill()
        worker.communicate()
    with Store.open(tmp_path / "home") as store:
        assert os.listdir(store.home / "tmp") == []


@pytest.mark.parametrize("what", ["child", "thread"])
def test_a_forked_child_has_a_connection_of_its_own(tmp_path: Path, what: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from contain.store import StepRecord

    def work(store: Store, key: str) -> None:
        store.record_step(StepRecord(key=key, position="p", ingredients="{}", diff_id=None))

    with Store.open(tmp_path / "home") as store:
        work(store, "before")
        if what == "thread":
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: work(store, f"{number}"), range(20)))
            assert len(store.nearest_steps("p")) == 20
            return
        child = os.fork()
        if child == 0:
            try:
                work(store, "child")
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert {record.key for record in store.nearest_steps("p")} == {"before", "child"}
