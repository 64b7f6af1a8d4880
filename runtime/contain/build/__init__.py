"""From a Dockerfile to an image.

``resolve_build`` (which stages) and ``fold`` (what each instruction means) decide, purely; `build` does; `plan` shows what it
would do. Base images come from the store, a registry or a base provider (`contain.build.bases`).
"""

from contain.build.bases import (
    HOST_LABEL,
    BaseFinder,
    BaseProviderHooks,
    FoundBase,
    ProvidedBase,
    hookimpl,
    hookspec,
    image_trees,
    is_on_host,
)
from contain.build.execute import build, default_bases, source_lines
from contain.build.graph import BuildGraph, StagePlan, resolve_build
from contain.build.plan import plan
from contain.build.request import BaseSource, BuildHost, BuildRequest, BuildResult
from contain.build.sources import read_build_host, read_sources

__all__ = [
    "HOST_LABEL",
    "BaseFinder",
    "BaseProviderHooks",
    "BaseSource",
    "BuildGraph",
    "BuildHost",
    "BuildRequest",
    "BuildResult",
    "FoundBase",
    "ProvidedBase",
    "StagePlan",
    "build",
    "default_bases",
    "hookimpl",
    "hookspec",
    "image_trees",
    "is_on_host",
    "plan",
    "read_build_host",
    "read_sources",
    "resolve_build",
    "source_lines",
]
