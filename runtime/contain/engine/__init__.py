"""The engine: a façade of nouns. Each method names its decider and its doer, and holds no logic that one of them could hold.

Open it with `Engine.open`; everything else is reached through it. The command line and the pytest plugin use these names only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from contain.annotations import TYPE_CHECKING
from contain.engine.environments import Environments
from contain.engine.opened import Completed, ReadyImage
from contain.paths import HostPath, run_home, store_home
from contain.progress import Progress, Silent

if TYPE_CHECKING:
    from contain.container.request.resolve import RunRequest

__all__ = ["Completed", "Engine", "ReadyImage", "RunRequest"]


def __getattr__(name: str) -> object:
    if name == "RunRequest":  # what asks for a container brings more along than what only looks at one
        from contain.container.request.resolve import RunRequest

        return RunRequest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Engine(Environments):
    """One store and one place for run-time state, with everything that can be done to them."""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, home: HostPath | None = None, *, run: HostPath | None = None, progress: Progress | None = None
    ) -> Iterator[Engine]:
        """Use the store at ``home`` (default: `contain.paths.store_home`)."""
        home = store_home() if home is None else home
        run = run_home() if run is None else run
        engine = cls(home=home, run=run, progress=progress or Silent())
        try:
            yield engine
        finally:
            if "store" in vars(engine):
                engine.store.close()
