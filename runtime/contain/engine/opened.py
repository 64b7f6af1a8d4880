"""What every noun of the engine stands on: one store, one place for run-time state; and the values that the nouns share."""

from __future__ import annotations

from functools import cached_property

from contain.annotations import TYPE_CHECKING
from contain.paths import HostPath
from contain.progress import Progress
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.container.lifecycle.ended import ExitState
    from contain.container.lifecycle.records import Records
    from contain.oci import Image, ImageConfig
    from contain.store import Store

HOST_IMAGE = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyImage:
    """An image that is here: its layer trees, lowest first, and where it came from."""

    name: str
    image: Image
    trees: tuple[HostPath, ...]
    source: str

    @property
    def config(self) -> ImageConfig:
        """What a container of it starts with."""
        return self.image.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ran in a container to its end."""

    exit_status: int
    stdout: bytes
    stderr: bytes
    state: ExitState


class Opened:
    """Where everything is."""

    def __init__(self, *, home: HostPath, run: HostPath, progress: Progress) -> None:
        self.home = home
        self.run_home = run
        self.progress = progress

    @cached_property
    def store(self) -> Store:
        """The store, opened when it is first wanted: to start a container of an image that is here takes `contain.store.lookup`."""
        from contain.store.store import Store

        return Store.open(self.home)

    @property
    def records(self) -> Records:
        """The containers on record."""
        from contain.container.lifecycle.records import Records

        return Records(self.home)
