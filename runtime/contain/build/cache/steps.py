"""Takes a step's layer from the cache, or has it made: once, however many builds want it at the same time.

The store's records are asked first, then the caches that ``--cache-from`` names, then the step is carried out, under a lock of the
key. A layer that was found is held (leased) at once, so that nobody removes it while the build goes on. With ``--explain``, says of
each step why it was or was not taken from the cache (`contain.build.cache.explain`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping

from contain.annotations import TYPE_CHECKING, Any
from contain.build.cache.keys import Ingredients, key_of
from contain.build.graph import ImageBase, StageBase, plan_stage
from contain.build.record.tracing import step_text
from contain.build.steps import RunStep
from contain.build.tasks import Pause, Work
from contain.errors import ContainError, InternalError
from contain.oci import canonical_json
from contain.store import StepRecord

if TYPE_CHECKING:
    from contain.build.cache.explain import Earlier, Outcome, Snapshot
    from contain.build.workbench import Stage, Workbench
    from contain.store.layers import CommittedLayer

_CACHED = "cached"
_ASK_AGAIN_SECONDS = 0.02
_ATTEMPTS = 5
_DIGITS = 16
_LONGEST_TEXT = 200

Listings = Mapping[str, Callable[[], bytes]]
"""For each input digest among a step's ingredients what makes its listing (`contain.build.copy.selection.list_selection`)."""


class NotKnownYet(Exception):
    """While nothing is carried out: what is asked for is known only after a step that would be."""


def cached_layer(
    bench: Workbench,
    stage: Stage,
    number: int,
    ingredients: Ingredients,
    execute: Callable[[], Work[CommittedLayer | None]],
    *,
    listings: Listings | None = None,
) -> Work[StepRecord]:
    """The record of a step's layer. ``execute`` makes the layer; ``number`` is the step's place in its stage."""
    key = key_of(ingredients)
    search = _Search(bench, stage, number, key, ingredients, listings or {})
    if bench.request.cache.only_explain:
        return (yield from search.look())
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as held:
            record = search.local()
            waited = False
            while record is None:
                release = bench.store.try_lock_key(key)
                if release is not None:
                    held.callback(release)
                    # Another build may have done it while this one waited.
                    record = search.local() or search.elsewhere()
                    break
                if not waited:
                    stage.progress.note("another build, or stage, is at this step; waiting for it")
                    waited = True
                yield Pause(_ASK_AGAIN_SECONDS)
            if record is not None:
                bench.cached_steps += 1
                stage.progress.note(_CACHED if not search.origin else f"{_CACHED}, from {search.origin}")
                search.explain_hit()
            else:
                search.explain_miss()
                stage.outcome = {}
                made = yield from execute()
                bench.executed_steps += 1
                record = search.record(made)
                if not bench.hold(record.diff_id):
                    continue  # a prune was faster than the lease
                bench.note_replaced(record)
                search.keep(record)
            bench.records.append((stage.plan.index, record))
            return record
    raise InternalError("a layer is removed as soon as it is made", code="layer-vanishes")


class _Search:
    """One step's look-up. ``origin``: the cache elsewhere that it came from."""

    def __init__(
        self, bench: Workbench, stage: Stage, number: int, key: str, ingredients: Ingredients, listings: Listings
    ) -> None:
        self._bench, self._stage, self._key, self._ingredients, self._listings = bench, stage, key, ingredients, listings
        self._position = f"{bench.sources.position}|{stage.plan.title}|{number}"
        self._known: dict[str, bytes] = {}
        self._refusal = ""
        self.origin = ""
        policy = bench.request.cache
        if bench.request.no_cache:
            self._refusal = "--no-cache"
        elif stage.plan.title in policy.refused_stages or str(stage.plan.index) in policy.refused_stages:
            self._refusal = f"--no-cache-filter {stage.plan.title}"

    def _moved(self, record: StepRecord) -> bool:
        """Whether the lock pins another layer: with its versions, the step may still give that one."""
        lock, step = self._bench.request.lock, self._stage.step
        if lock is None or step is None:
            return False
        pinned = lock.pinned_layer(self._stage.plan.title, step_text(step.instruction), self._stage.diff_ids)
        if not pinned or record.diff_id == pinned:
            return False
        self._refusal = "the lock pins another result"
        return True

    # -- finding ----------------------------------------------------------------------------------------------------------------

    def local(self) -> StepRecord | None:
        """The store's record, its layer here and held."""
        if self._refusal.startswith("--no-cache"):
            return None
        record = self._bench.store.find_step(self._key)
        if record is None or self._expired(record) or self._moved(record):
            return None
        if not self._bench.hold(record.diff_id):
            self._refusal = "its layer was removed from the store"
            return None
        self._bench.used_keys.append(record.key)
        return record

    def _expired(self, record: StepRecord) -> bool:
        lifetime = self._bench.request.cache.lifetime_seconds
        if lifetime is None or time.time() - record.created_seconds <= lifetime:
            return False
        age = max(0, int(time.time() - record.created_seconds))
        self._refusal = f"--cache-ttl: the cached step is {age} s old"
        return True

    def elsewhere(self) -> StepRecord | None:
        """A record of one of the caches of ``--cache-from``, its layer fetched, held, and both known to the store from now on."""
        if self._refusal.startswith("--no-cache"):
            return None
        for source in self._bench.cache_sources():
            record = source.find(self._key)
            if record is None or self._expired(record):
                continue
            try:
                if record.diff_id is not None and not self._bench.hold(record.diff_id):
                    source.fetch_layer(record.diff_id, self._bench.store, self._stage.progress)
                    if not self._bench.hold(record.diff_id):
                        continue
            except ContainError as error:
                self._stage.progress.warn(f"the cache {source.name} is of no use for this step: {error.message}")
                continue
            record = self._filed(record)
            self.keep(record)
            self.origin = source.name
            return record
        return None

    # -- keeping ----------------------------------------------------------------------------------------------------------------

    def record(self, made: CommittedLayer | None) -> StepRecord:
        """What is kept of a step that was carried out."""
        return StepRecord(
            key=self._key,
            position=self._position,
            ingredients=canonical_json(self._ingredients).decode(),
            diff_id=None if made is None else made.diff_id,
            size_bytes=0 if made is None else made.size_bytes,
            result=canonical_json({**details_of(self._bench, self._stage), **self._stage.outcome}).decode(),
            command=self._command(),
        )

    def _filed(self, record: StepRecord) -> StepRecord:
        return StepRecord(
            key=record.key,
            position=self._position,
            ingredients=record.ingredients,
            diff_id=record.diff_id,
            size_bytes=0 if record.diff_id is None else self._bench.store.layer_size(record.diff_id),
            result=canonical_json(details_of(self._bench, self._stage)).decode(),
            created_seconds=record.created_seconds,
            command=self._command(),
        )

    def keep(self, record: StepRecord) -> None:
        """Remember a step, and what its inputs consisted of."""
        for digest in self._listings:
            self._bench.store.put_listing(digest, self._listing(digest))
        self._bench.store.record_step(record)

    def _listing(self, digest: str) -> bytes:
        if digest not in self._known:
            self._known[digest] = self._listings[digest]()
        return self._known[digest]

    def _command(self) -> str:
        """A short name of what the step does, the same at every place: an ARG's value is no part of it."""
        step = self._stage.step
        text = ""
        if isinstance(step, RunStep):
            text = "\0".join(("RUN", *step.arguments, step.script.body if step.script is not None else ""))
        elif step is not None:
            text = step.created_by
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[: 2 * _DIGITS]

    # -- explaining -------------------------------------------------------------------------------------------------------------

    def look(self) -> Work[StepRecord]:
        """What would happen, told; nothing is fetched, made or waited for."""
        from contain.build.cache.explain import Outcome

        record = None if self._stage.pending else self.local() or self._look_elsewhere()
        layer_here = record is not None and (record.diff_id is None or self._bench.store.has_layer(record.diff_id))
        if record is not None:
            self._explain(Outcome.HIT, (f"from {self.origin}",) if self.origin else ())
        elif self._stage.pending:
            reasons = self._reasons(ignore=("base",))
            text = f"a hit only if {self._stage.pending} gives the same files as before"
            self._explain(Outcome.MISS if reasons else Outcome.OPEN, reasons or (text,))
        else:
            self.explain_miss()
        if not layer_here and not self._stage.pending:
            step = self._stage.step
            self._stage.pending = "" if step is None else f"{step.instruction.keyword} in line {step.instruction.span.line}"
        return StepRecord(
            key=self._key,
            position=self._position,
            ingredients="{}",
            diff_id=record.diff_id if record is not None and layer_here else None,
            size_bytes=0 if record is None else record.size_bytes,
        )
        yield from ()

    def _look_elsewhere(self) -> StepRecord | None:
        if self._refusal.startswith("--no-cache"):
            return None
        for source in self._bench.cache_sources():
            record = source.find(self._key)
            if record is not None and not self._expired(record):
                self.origin = source.name
                return record
        return None

    def explain_hit(self) -> None:
        """Only where explanations are wanted."""
        if self._bench.request.cache.explain:
            from contain.build.cache.explain import Outcome

            self._explain(Outcome.HIT, (f"from {self.origin}",) if self.origin else ())

    def explain_miss(self) -> None:
        """Only where explanations are wanted."""
        if self._bench.request.cache.explain:
            from contain.build.cache.explain import Outcome

            self._explain(Outcome.MISS, (self._refusal,) if self._refusal else self._reasons())

    def _explain(self, outcome: Outcome, reasons: tuple[str, ...]) -> None:
        self._bench.explain(self._stage, outcome, reasons)

    def _reasons(self, *, ignore: tuple[str, ...] = ()) -> tuple[str, ...]:
        from contain.build.cache.explain import choose_nearest, explain_miss

        nearest = choose_nearest(self._ingredients, self._candidates())
        return explain_miss(None if nearest is None else nearest.snapshot, self._snapshot(), ignore=ignore)

    def _snapshot(self) -> Snapshot:
        from contain.build.cache.explain import Snapshot
        from contain.build.copy.selection import read_listing

        def listing(digest: str) -> Mapping[str, str]:
            return read_listing(self._listing(digest)) if digest in self._listings else {}

        details = details_of(self._bench, self._stage)
        return Snapshot(ingredients=json.loads(canonical_json(self._ingredients)), details=details, listing=listing)

    def _candidates(self) -> list[Earlier]:
        from contain.build.cache.explain import Earlier, Snapshot
        from contain.build.copy.selection import read_listing

        def listing(digest: str) -> Mapping[str, str]:
            data = self._bench.store.listing(digest)
            for source in () if data is not None else self._bench.cache_sources():
                data = data or source.listing(digest)
            return read_listing(data or b"")

        command = self._command()
        found = {record.key: record for record in self._bench.store.nearest_steps(self._position)}
        found.update((record.key, record) for record in self._bench.store.alike_steps(command))
        for source in self._bench.cache_sources():
            found.update((record.key, record) for record in source.alike(command) if record.key not in found)
        found.pop(self._key, None)
        return [
            Earlier(
                snapshot=Snapshot(
                    ingredients=json.loads(record.ingredients), details=json.loads(record.result), listing=listing
                ),
                same_place=record.position == self._position,
                same_command=record.command == command,
            )
            for record in found.values()
        ]


def details_of(bench: Workbench, stage: Stage) -> dict[str, Any]:
    """What makes a record understandable and is no part of its key: which variables are build arguments, the base, and the steps
    below with the beginning of their layers' digests."""
    config = stage.state.config
    layers = iter(config.diff_ids)
    stack = [
        [" ".join(row.created_by.split())[:_LONGEST_TEXT], next(layers, "").removeprefix("sha256:")[:_DIGITS]]
        for row in config.history
        if not row.empty_layer
    ]
    base, digest = _base_of(bench, stage)
    return {
        "arguments": sorted(name for name, value in stage.state.arguments.items() if value is not None),
        "base": base,
        "base_digest": digest,
        "fingerprint": stage.fingerprint,
        "stack": stack,
    }


def _base_of(bench: Workbench, stage: Stage) -> tuple[str, str]:
    """The image at the bottom, by name and digest."""
    plan = stage.plan
    while isinstance(plan.base, StageBase):
        plan = plan_stage(bench.graph, plan.base.index)
    if not isinstance(plan.base, ImageBase):
        return "scratch", ""
    found = bench.found.get((str(plan.base.reference), str(plan.platform)))
    return plan.base.reference.familiar, "" if found is None else found.image.digest
