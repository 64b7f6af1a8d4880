from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contain.paths import HostPath
from contain.progress import Silent
from contain.store import Store

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(HostPath(tmp_path / "store")) as opened:
        yield opened


def ours(store: Store, tmp_path: Path) -> bytes:
    """A layer as contain writes it: files small and large, a link, a directory."""
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/small").write_bytes(b"small")
    (upper / "etc/large").write_bytes(b"large" * 600_000)
    (upper / "etc/link").hardlink_to(upper / "etc/small")
    (upper / "etc/soft").symlink_to("small")
    layer = store.commit_layer(HostPath(upper), lower=(), epoch_seconds=946_684_800)
    assert layer is not None
    return b"".join(store.layer_pieces(layer.diff_id))


def with_other_order(data: bytes) -> bytes:
    """The same files, the last one first."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as to,
    ):
        for member in sorted(
            source.getmembers(), key=lambda member: (member.islnk(), not member.isdir(), member.name == "etc/large")
        ):
            to.addfile(member, source.extractfile(member) if member.isreg() else None)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        pytest.param(lambda data: data, True, id="as it was"),
        pytest.param(lambda data: data.replace(b"largelarge", b"LARGElarge"), True, id="other content"),
        pytest.param(lambda data: data + bytes(512), False, id="more at its end"),
        pytest.param(lambda data: data[:-512], False, id="less at its end"),
        pytest.param(lambda data: data[:-1024] + data, False, id="everything twice"),
        pytest.param(
            lambda data: data.replace(b"small" + bytes(507), b"small" + bytes(506) + b"x"), False, id="filled otherwise"
        ),
        pytest.param(with_other_order, False, id="another order"),
    ],
)
def test_an_archive_is_regenerable_if_and_only_if_its_tree_gives_it_again(
    tmp_path: Path, store: Store, change: Callable[[bytes], bytes], kept: bool
) -> None:
    data = change(ours(store, tmp_path))
    diff_id = "sha256:" + hashlib.sha256(data).hexdigest()
    with Store.open(HostPath(tmp_path / "other")) as other:
        other.extract_layer(
            io.BytesIO(data), diff_id=diff_id, media_type=MEDIA_TYPE, progress=Silent(), label="", regenerable=None
        )
        assert other.is_canonical(diff_id) is kept
        if kept:
            assert b"".join(other.layer_pieces(diff_id)) == data
