"""Containers: from a spec to processes, kept on record; and the prepared ones of a test session.

`plan` decides, `launch` starts, `run` and `lifecycle` look after; `keeper` and `sessions` are the two ends of a test session.
"""

from contain.container.identity import resolve_identity
from contain.container.launch import CommandNotStarted
from contain.container.run import ExitState, new_container_id, run

__all__ = ["CommandNotStarted", "ExitState", "new_container_id", "resolve_identity", "run"]
