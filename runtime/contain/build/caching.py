"""Takes a step's layer from the cache, or has it made: once, however many builds want it at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from contain.build.keys import Ingredients, key_of
from contain.build.tasks import Pause, Work
from contain.build.workbench import Stage, Workbench
from contain.oci import canonical_json
from contain.store import StepRecord
from contain.store.layers import CommittedLayer

_CACHED = "cached"
_ASK_AGAIN_SECONDS = 0.02


def cached_layer(
    bench: Workbench,
    stage: Stage,
    number: int,
    ingredients: Ingredients,
    execute: Callable[[], Work[CommittedLayer | None]],
) -> Work[StepRecord]:
    """The record of a step's layer. ``execute`` makes the layer; ``number`` is the step's place in its stage."""
    key = key_of(ingredients)
    with contextlib.ExitStack() as held:
        record = _look_up(bench, key)
        waited = False
        while record is None:
            release = bench.store.try_lock(f"step-{key.removeprefix('sha256:')[:3]}")
            if release is not None:
                held.callback(release)
                # Another build may have done it while this one waited.
                record = _look_up(bench, key)
                break
            if not waited:
                stage.progress.note("another build is at this step; waiting for it")
                waited = True
            yield Pause(_ASK_AGAIN_SECONDS)
        if record is None:
            made = yield from execute()
            bench.executed_steps += 1
            record = StepRecord(
                key=key,
                position=f"{bench.sources.position}|{stage.plan.title}|{number}",
                ingredients=canonical_json(ingredients).decode(),
                diff_id=None if made is None else made.diff_id,
                size_bytes=0 if made is None else made.size_bytes,
            )
            bench.store.record_step(record)
        else:
            bench.cached_steps += 1
            stage.progress.note(_CACHED)
        if record.diff_id is not None:
            bench.cleanup.enter_context(bench.store.lease(record.diff_id))
        return record


def _look_up(bench: Workbench, key: str) -> StepRecord | None:
    return None if bench.request.no_cache else bench.store.cached_step(key)
