"""What one instruction of a Dockerfile comes to, once the variables are known: the steps of a build. Values only."""

from __future__ import annotations

from contain.dockerfile.instructions import Instruction, ScriptFile
from contain.dockerfile.literals import ModeChange
from contain.dockerfile.mounts import RunMount
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataStep:
    """Changes the image's config only: no layer, no cache."""

    instruction: Instruction
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkdirStep:
    """``WORKDIR``: the directory must be there; what is missing is made with mode 0755 for ``user``."""

    instruction: Instruction
    created_by: str
    path: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """``RUN``. ``environment`` is what counts for the result: ENV and declared ARGs. ``network``: default, none, host.
    ``security``: sandbox, insecure. ``mounts``: with absolute targets."""

    instruction: Instruction
    created_by: str
    arguments: tuple[str, ...]
    script: ScriptFile | None
    environment: tuple[tuple[str, str], ...]
    network: str
    security: str
    mounts: tuple[RunMount, ...]
    user: str
    working_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """``COPY`` and ``ADD``. ``destination`` is absolute; a trailing slash means a directory. ``source_name`` is ``--from``.

    ``unpack``: named files that are archives are unpacked; ``unpack_remote``: those from URLs, too. ``add``: sources may be URLs and
    git repositories. ``checksum``: what the one source from elsewhere must be.
    """

    instruction: Instruction
    created_by: str
    sources: tuple[str, ...]
    documents: tuple[tuple[str, str], ...]  # heredocs: name, content
    destination: str
    source_name: str | None
    chown: str | None
    chmod: str | None
    mode: ModeChange | None
    unpack: bool
    unpack_remote: bool = False
    add: bool = False
    exclude: tuple[str, ...] = ()
    parents: bool = False
    link: bool = False
    checksum: str = ""
    keep_git_dir: bool | None = None


Step = MetadataStep | WorkdirStep | RunStep | CopyStep
