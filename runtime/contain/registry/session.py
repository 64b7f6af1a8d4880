"""One conversation with one registry, opened and closed: the client, its endpoints, and how all threads are made to stop.

Pulling, pushing and artifacts share it; it decides nothing. Whoever opens a session closes its connections by leaving the block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from contain.annotations import TypeVar
from contain.progress import Progress, Silent
from contain.registry.client import CredentialSource, RegistryClient
from contain.registry.configuration import Endpoint, RegistryConfiguration, is_insecure, plan_endpoints, read_configuration
from contain.registry.credentials import CredentialFile
from contain.registry.transport import Transport
from contain.values import dataclass

PARALLEL_LAYERS = 3

Work = TypeVar("Work")
Result = TypeVar("Result")


class Stopped(Exception):
    """This thread ends because another one failed. Never leaves the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySession:
    """Whom to ask (``endpoints``: mirrors first, the registry itself last) and with what. ``stop`` makes all threads end,
    ``abort`` wakes those that wait for bytes."""

    client: RegistryClient
    endpoints: tuple[Endpoint, ...]
    progress: Progress
    stop: threading.Event
    abort: Callable[[], None]

    @property
    def endpoint(self) -> Endpoint:
        """The registry itself: the only one that is written to."""
        return self.endpoints[-1]

    def check_stop(self) -> None:
        """End this thread if the work has failed elsewhere."""
        check_stop(self.stop)


@contextmanager
def open_session(
    domain: str,
    *,
    configuration: RegistryConfiguration | None = None,
    progress: Progress | None = None,
    credentials: CredentialSource | None = None,
) -> Iterator[RegistrySession]:
    """A session with the registry of a reference's domain. Defaults: this machine's configuration and credentials."""
    stop = threading.Event()
    told = SharedProgress(progress or Silent())

    def pause(seconds: float) -> None:
        stop.wait(seconds)
        check_stop(stop)

    configuration = read_configuration() if configuration is None else configuration
    transport = Transport()
    client = RegistryClient(
        transport=transport,
        credentials=CredentialFile(progress=told) if credentials is None else credentials,
        progress=told,
        insecure=lambda host: is_insecure(host, configuration),
        pause=pause,
    )
    try:
        yield RegistrySession(
            client=client,
            endpoints=plan_endpoints(domain, configuration),
            progress=told,
            stop=stop,
            abort=transport.abort,
        )
    finally:
        transport.close()


def check_stop(stop: threading.Event) -> None:
    """End this thread if the work has failed elsewhere."""
    if stop.is_set():
        raise Stopped


def run_parallel(
    run: Callable[[Work], Result], items: Sequence[Work], *, stop: threading.Event, abort: Callable[[], None], name: str
) -> list[Result]:
    """``run`` of every item, up to `PARALLEL_LAYERS` at a time; the results in the items' order. The first failure (also
    Ctrl-C) stops all, and is raised when all have ended."""
    executor = ThreadPoolExecutor(max_workers=PARALLEL_LAYERS, thread_name_prefix=name)
    futures = []
    try:
        futures = [executor.submit(run, item) for item in items]
        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        # One that stopped because of another's failure is not the failure.
        for future in sorted(finished, key=lambda future: isinstance(future.exception(), Stopped)):
            future.result()
    except BaseException:
        stop.set()
        abort()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


class SharedProgress:
    """A progress delegate that threads may share."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()

    def step(self, title: str) -> None:
        """One thread at a time."""
        with self._lock:
            self._progress.step(title)

    def log(self, text: str) -> None:
        """One thread at a time."""
        with self._lock:
            self._progress.log(text)

    def note(self, text: str) -> None:
        """One thread at a time."""
        with self._lock:
            self._progress.note(text)

    def warn(self, text: str) -> None:
        """One thread at a time."""
        with self._lock:
            self._progress.warn(text)

    def amount(self, label: str, done: int, total: int | None) -> None:
        """One thread at a time."""
        with self._lock:
            self._progress.amount(label, done, total)
