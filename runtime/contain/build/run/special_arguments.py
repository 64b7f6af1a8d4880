"""Build arguments that mean something to the builder itself: which are honoured, and what is said of those that are not. Pure.

Source: BuildKit's ``frontend/dockerui/config.go`` and the Dockerfile reference, "Predefined ARGs".
"""

from __future__ import annotations

from collections.abc import Mapping

from contain.dockerfile.syntax import CHECK_ARGUMENT

SANDBOX_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"
"""The host name that RUN sees."""

CACHE_MOUNT_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"
"""Cache mounts of builds with another value are other directories."""

KEEP_GIT_DIRECTORY = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
"""A context from a git repository has its ``.git``."""

_HONOURED = frozenset({"SOURCE_DATE_EPOCH", CHECK_ARGUMENT, SANDBOX_HOSTNAME, CACHE_MOUNT_NAMESPACE, KEEP_GIT_DIRECTORY})

NOT_EXPORTED = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
"""Declared in a stage, they speak to the builder, and RUN does not see them."""

_WITHOUT_EFFECT = {
    "BUILDKIT_SYNTAX": "contain reads Dockerfiles itself and loads no other frontend",
    "BUILDKIT_INLINE_CACHE": "an image holds no cache; write it elsewhere with --cache-to",
    "BUILDKIT_MULTI_PLATFORM": "the result is an image for one platform, not an index",
    "BUILDKIT_BUILD_NAME": "steps are named after their stages",
    "BUILDKIT_SBOM_SCAN_CONTEXT": "--sbom describes the image, not the context",
    "BUILDKIT_SBOM_SCAN_STAGE": "--sbom describes the image, not the stages behind it",
}
_OFF: tuple[str, ...] = ("", "0", "f", "F", "false", "FALSE", "False")

SPECIAL = _HONOURED | frozenset(_WITHOUT_EFFECT)
"""Arguments that need no ARG to have a meaning."""


def keeps_git_directory(given: Mapping[str, str]) -> bool:
    """Whether contexts from git repositories keep their ``.git``."""
    return given.get(KEEP_GIT_DIRECTORY, "") not in _OFF


def arguments_without_effect(given: Mapping[str, str]) -> tuple[str, ...]:
    """What to tell the reader of special arguments that were passed and do nothing here."""
    return tuple(
        f"the build argument {name} has no effect: {why}"
        for name, why in _WITHOUT_EFFECT.items()
        if given.get(name, "") not in _OFF
    )
