"""What a RUN may do only if the person who builds allows it: use the host's network, run with privileges. Pure.

Source: BuildKit's ``util/entitlements``. Asked of all stages that are needed before anything is carried out, and again of each step: a
base's ONBUILD trigger is only known then.
"""

from __future__ import annotations

from contain.build.graph import BuildGraph
from contain.build.run.options import NETWORK_HOST, SECURITY_INSECURE, RunOptions
from contain.dockerfile.instructions import Instruction, Run
from contain.errors import UsageError


def refuse_forbidden_runs(graph: BuildGraph, options: RunOptions) -> None:
    """Raise for the first RUN of the build that would do what is not allowed."""
    for plan in graph.stages:
        for instruction in plan.stage.instructions:
            if isinstance(instruction, Run):
                network = options.network if instruction.network == "default" else instruction.network
                refuse_forbidden(instruction, network=network, security=instruction.security, allowed=options.allowed)


def refuse_forbidden(instruction: Instruction, *, network: str, security: str, allowed: frozenset[str]) -> None:
    """Raises `UsageError` (``not-allowed``), whose remedy is the flag that allows it."""
    for wanted, what in (
        (NETWORK_HOST if network == "host" else "", "--network=host"),
        (SECURITY_INSECURE if security == "insecure" else "", "--security=insecure"),
    ):
        if wanted and wanted not in allowed:
            raise UsageError(
                f"RUN {what} is not allowed in this build",
                code="not-allowed",
                span=instruction.span_of(what),
                remedy=f"if you trust this Dockerfile with that: --allow {wanted}",
            )
