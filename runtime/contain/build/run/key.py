"""The cache key of a RUN in one build: from the step and what the request says of all its RUN instructions. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from contain.build.cache.keys import Ingredients, run_ingredients
from contain.build.normalise.rules import RULES_VERSION
from contain.build.request import BuildRequest
from contain.build.run.special_arguments import SANDBOX_HOSTNAME
from contain.build.steps import RunStep
from contain.oci import Platform
from contain.values import replace


def settle_network(step: RunStep, request: BuildRequest) -> RunStep:
    """The step with the network of the whole build, if it names none of its own."""
    return replace(step, network=request.run.network) if step.network == "default" else step


def ingredients_of_run(
    request: BuildRequest, step: RunStep, *, base: str, platform: Platform, epoch_seconds: int, contents: Sequence[str] = ()
) -> Ingredients:
    """What a settled RUN depends on. ``contents``: for each mount, the digest of what a bind mount shows."""
    return run_ingredients(
        step,
        base=base,
        platform=platform,
        epoch_seconds=epoch_seconds,
        contents=contents,
        host_names=[name for name, _ in request.run.extra_hosts],
        hostname=request.build_args.get(SANDBOX_HOSTNAME, ""),
        normalised=RULES_VERSION if request.reproducible else None,
    )
