from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.store import Store
from contain.store.cache_mounts import (
    CacheIdentity,
    CacheMount,
    HeldCacheMount,
    Sharing,
    list_cache_mounts,
    prune_cache_mounts,
    try_hold_cache_mount,
)

APT = CacheIdentity(id="apt")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a cache mount has an owner: needs root")


def hold(store: Store, identity: CacheIdentity = APT, sharing: Sharing = "shared") -> HeldCacheMount:
    held = try_hold_cache_mount(store, identity, sharing)
    assert held is not None
    return held


def use(store: Store, identity: CacheIdentity, content: str, *, at_seconds: int) -> None:
    held = hold(store, identity)
    (held.tree / "f").write_text(content)
    held.release()
    os.utime(held.tree.parent / "lock", (at_seconds, at_seconds))


def ids(mounts: tuple[CacheMount, ...]) -> list[str]:
    return [mount.id for mount in mounts]


def test_what_was_written_is_there_for_the_next_user(store: Store) -> None:
    first = hold(store)
    (first.tree / "f").write_text("kept")
    first.release()
    second = hold(store)
    assert (second.tree / "f").read_text() == "kept"
    second.release()


def test_shared_users_meet_in_one_directory_and_keep_an_exclusive_one_out(store: Store) -> None:
    one, two = hold(store), hold(store)
    assert one.tree == two.tree
    assert try_hold_cache_mount(store, APT, "locked") is None
    one.release()
    assert try_hold_cache_mount(store, APT, "locked") is None
    two.release()
    locked = hold(store, sharing="locked")
    assert try_hold_cache_mount(store, APT, "shared") is None
    locked.release()


def test_private_users_never_meet_and_take_a_free_directory_again(store: Store) -> None:
    one, two = hold(store, sharing="private"), hold(store, sharing="private")
    assert one.tree != two.tree
    (two.tree / "f").write_text("second")
    two.release()
    again = hold(store, sharing="private")
    assert (again.tree / "f").read_text() == "second"
    one.release()
    again.release()


@pytest.mark.parametrize(
    "other",
    [
        CacheIdentity(id="apt", namespace="n"),
        CacheIdentity(id="apt", origin="sha256:0"),
        CacheIdentity(id="apt", mode=0o700),
        CacheIdentity(id="apt", user_id=1),
        CacheIdentity(id="apt", group_id=1),
    ],
)
def test_everything_that_tells_directories_apart_does(store: Store, other: CacheIdentity) -> None:
    assert other.name != APT.name


def test_the_first_content_is_put_in_once_and_the_mode_holds(store: Store) -> None:
    calls: list[Path] = []

    def fill(tree: Path) -> None:
        calls.append(tree)
        (tree / "seed").write_text("s")

    for _ in range(2):
        held = try_hold_cache_mount(store, CacheIdentity(id="x", mode=0o1777), "shared", fill=fill)
        assert held is not None
        assert (held.tree / "seed").read_text() == "s"
        assert held.tree.stat().st_mode & 0o7777 == 0o1777
        held.release()
    assert len(calls) == 1


def test_the_least_recently_used_goes_first_until_the_rest_fits(store: Store) -> None:
    for number, name in enumerate(("old", "middle", "new")):
        use(store, CacheIdentity(id=name), "x" * 8000, at_seconds=1000 + number)
    assert ids(list_cache_mounts(store)) == ["new", "middle", "old"]
    sizes = [mount.size_bytes for mount in list_cache_mounts(store)]
    pruned = prune_cache_mounts(store, keep_bytes=sizes[0] + sizes[1])
    assert ids(pruned.removed) == ["old"]
    assert pruned.freed_bytes == sizes[2] > 0
    assert ids(list_cache_mounts(store)) == ["new", "middle"]


def test_what_is_in_use_or_was_used_lately_is_spared(store: Store) -> None:
    use(store, CacheIdentity(id="old"), "x", at_seconds=1000)
    use(store, CacheIdentity(id="held"), "x", at_seconds=1000)
    held = hold(store, CacheIdentity(id="held"))
    lately = hold(store, CacheIdentity(id="lately"))
    lately.release()
    assert [mount.in_use for mount in list_cache_mounts(store) if mount.id == "held"] == [True]
    assert ids(prune_cache_mounts(store, unused_for_seconds=3600).removed) == ["old"]
    assert ids(prune_cache_mounts(store).removed) == ["lately"]
    held.release()
    assert ids(prune_cache_mounts(store).removed) == ["held"]
    assert list_cache_mounts(store) == ()


def test_a_size_is_measured_again_only_after_use(store: Store) -> None:
    use(store, APT, "x" * 100_000, at_seconds=1000)
    before = list_cache_mounts(store)[0].size_bytes
    assert before >= 100_000
    (list_cache_mounts(store)[0].directory / "tree" / "g").write_text("y" * 100_000)
    assert list_cache_mounts(store)[0].size_bytes == before
    use(store, APT, "x" * 100_000, at_seconds=2000)
    assert list_cache_mounts(store)[0].size_bytes > before


def test_a_directory_removed_between_two_looks_is_made_again(store: Store) -> None:
    held = hold(store)
    held.release()
    prune_cache_mounts(store)
    again = hold(store)
    assert list(again.tree.iterdir()) == []
    again.release()
