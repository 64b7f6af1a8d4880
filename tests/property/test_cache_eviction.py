from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contain.oci import Descriptor, ImageConfig, Platform
from contain.oci.image import MEDIA_LAYER
from contain.store import StepRecord, Store
from contain.store.collection import Evictable, plan_eviction

_THINGS = st.lists(
    st.builds(
        Evictable,
        name=st.text("abcdef", min_size=1, max_size=4),
        size_bytes=st.integers(0, 100),
        used_seconds=st.integers(0, 20),
        in_use=st.booleans(),
        superseded=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.name,
)


@given(things=_THINGS, keep_bytes=st.integers(0, 400), used_before=st.integers(0, 25), only_superseded=st.booleans())
def test_eviction_spares_what_is_in_use_takes_the_oldest_and_ends_below_the_limit_if_that_can_be(
    things: list[Evictable], keep_bytes: int, used_before: int, only_superseded: bool
) -> None:
    going = plan_eviction(things, keep_bytes=keep_bytes, used_before=used_before, only_superseded=only_superseded)
    allowed = [
        each
        for each in things
        if not each.in_use and each.used_seconds < used_before and (each.superseded or not only_superseded)
    ]
    assert set(going) <= set(allowed)
    left = sum(each.size_bytes for each in things) - sum(each.size_bytes for each in going)
    stayed = [each for each in allowed if each not in going]
    assert left <= keep_bytes or not stayed
    assert all(gone.used_seconds <= other.used_seconds for gone in going for other in stayed)
    if going:  # and not one more than necessary
        assert left + going[-1].size_bytes > keep_bytes


class CacheMachine(RuleBasedStateMachine):
    """Builds that record steps, hold layers and make images; rivals that evict. Whatever the order, nothing in use goes."""

    directory: Path

    @initialize()
    def begin(self) -> None:
        self.stack = contextlib.ExitStack()
        self.number = 0
        home = self.directory / os.urandom(6).hex()
        self.store = self.stack.enter_context(Store.open(home))
        self.layers: list[str] = []
        self.sizes: dict[str, int] = {}
        self.held: dict[str, list[contextlib.AbstractContextManager[None] | object]] = {}
        self.releases: list[tuple[str, object]] = []
        self.images: list[tuple[str, str]] = []

    def _new_layer(self, size_bytes: int) -> str:
        self.number += 1
        with self.store.scratch("step") as scratch:
            upper = scratch / "upper"
            upper.mkdir()
            (upper / f"f{self.number}").write_bytes(bytes(size_bytes))
            made = self.store.commit_layer(upper, lower=[], epoch_seconds=0)
        assert made is not None
        self.sizes[made.diff_id] = made.size_bytes
        return made.diff_id

    @rule(size=st.sampled_from([10, 5000]), position=st.sampled_from(["1", "2"]), hold=st.booleans())
    def build_step(self, size: int, position: str, hold: bool) -> None:
        diff_id = self._new_layer(size)
        release = self.store.try_hold(diff_id)
        assert release is not None
        record = StepRecord(
            key="sha256:" + os.urandom(32).hex(),
            position=position,
            ingredients="{}",
            diff_id=diff_id,
            size_bytes=self.sizes[diff_id],
        )
        self.store.record_step(record)
        self.layers.append(diff_id)
        if hold:
            self.releases.append((diff_id, release))
        else:
            release()

    @precondition(lambda self: self.layers)
    @rule(data=st.data())
    def make_image(self, data: st.DataObject) -> None:
        diff_id = data.draw(st.sampled_from(self.layers))
        release = self.store.try_hold(diff_id)
        if release is None:
            return
        config = ImageConfig(platform=Platform(os="linux", architecture="amd64"), diff_ids=(diff_id,))
        layer = Descriptor(media_type=MEDIA_LAYER, digest=diff_id, size=self.sizes[diff_id])
        self.images.append((self.store.put_image(config, [layer]).digest, diff_id))
        release()

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def remove_image(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.images) - 1))
        digest, _ = self.images[index]
        self.images = [each for each in self.images if each[0] != digest]
        self.store.remove_image(digest)

    @precondition(lambda self: self.releases)
    @rule()
    def end_a_build(self) -> None:
        _, release = self.releases.pop()
        assert callable(release)
        release()

    @rule(keep_bytes=st.sampled_from([0, 4000, 12_000]), only_superseded=st.booleans(), forget=st.booleans())
    def evict(self, keep_bytes: int, only_superseded: bool, forget: bool) -> None:
        before = self.store.cache_usage()
        report = self.store.prune_cache(keep_bytes=keep_bytes, only_superseded=only_superseded, forget=forget)
        after = self.store.cache_usage()
        assert not (set(report.layers) & self._needed())
        assert before.total_bytes - after.total_bytes == sum(self.sizes[diff_id] for diff_id in report.layers)
        if not only_superseded:
            assert after.total_bytes <= max(keep_bytes, before.total_bytes - before.reclaimable_bytes)

    def _needed(self) -> set[str]:
        return {diff_id for diff_id, _ in self.releases} | {diff_id for _, diff_id in self.images}

    @invariant()
    def what_is_needed_is_there(self) -> None:
        if hasattr(self, "store"):
            for diff_id in self._needed():
                assert self.store.has_layer(diff_id)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.stack.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root")
def test_no_order_of_builds_images_and_evictions_removes_what_is_in_use(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Here(CacheMachine):
        directory = tmp_path

    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Here, settings=settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=checks)
    )
