"""Differences from other builders that are right, each with its reason. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Explanation:
    """Patterns of a case's name, a builder's name and a key (``file /x``, ``config Cmd``), and why they differ."""

    case: str
    builder: str
    key: str
    reason: str

    def covers(self, case: str, builder: str, key: str) -> bool:
        """Whether this is about that difference."""
        return fnmatchcase(case, self.case) and fnmatchcase(builder, self.builder) and fnmatchcase(key, self.key)


EXPLAINED = (
    Explanation("*", "buildah", "config Labels", "buildah labels every image with its own version"),
    Explanation(
        "copy-to-link-to-file", "buildah", "file /*", "Docker writes through a link at the destination; buildah replaces it"
    ),
    Explanation(
        "copy-chmod",
        "*",
        "file /x",
        "BuildKit since 0.11 gives an octal --chmod to the directories that it makes for the destination, too; these are older",
    ),
    Explanation(
        "copy-from-stage-link",
        "docker-classic",
        "file /x/?",
        "BuildKit copies a link's file under the name that was written; the classic builder under the file's own name",
    ),
    *(
        Explanation(
            case, builder, "config WorkingDir", "BuildKit gives an image that stands on nothing the working directory /"
        )
        for case in ("copy-from-image", "add-tar-gz-onto-scratch")
        for builder in ("docker-classic", "buildah")
    ),
    Explanation(
        "workdir-*", "buildah", "file /*", "Docker makes the directory of WORKDIR; buildah waits until something uses it"
    ),
    *(
        Explanation(
            "config-command-then-entrypoint",
            builder,
            "config Cmd",
            "BuildKit keeps a CMD that the same stage set before its ENTRYPOINT; the older builders drop every one",
        )
        for builder in ("docker-classic", "buildah")
    ),
    Explanation(
        "config-expose-range", "buildah", "config ExposedPorts", "Docker writes each port of a range; buildah the range"
    ),
    Explanation("config-shell", "buildah", "config Cmd", "the Dockerfile reference: SHELL is for the shell forms of CMD, too"),
    Explanation(
        "mount-*",
        "docker-buildkit",
        "file /?",
        "this older BuildKit leaves the directories that it mounted something on; newer ones and contain leave none",
    ),
)
