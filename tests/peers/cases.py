"""Dockerfiles that every builder should turn into the same files and the same configuration.

Data only. All begin with ``FROM base`` (a busybox with ``/etc/passwd`` and ``/etc/group``) or ``FROM scratch``; `run` builds each with
every builder that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

File = str | tuple[str, int]
"""Text, text with a mode, or ``-> target`` for a symbolic link."""


@dataclass(frozen=True, slots=True)
class Case:
    """``files``: the context besides the Dockerfile. ``arguments``: values of ``--build-arg``."""

    name: str
    dockerfile: str
    files: Mapping[str, File] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


TREE: Mapping[str, File] = {
    "a.txt": "a\n",
    "b.txt": ("b\n", 0o755),
    "dir/one": "1\n",
    "dir/two.py": "2\n",
    "dir/sub/three": "3\n",
    "dir/.hidden": "h\n",
    "dir/link": "-> one",
    "dir/away": "-> /etc/passwd",
    "empty/.keep": "",
}

CASES = (
    # -- COPY
    Case("copy-file-to-root", "FROM base\nCOPY a.txt /\n", TREE),
    Case("copy-file-renamed", "FROM base\nCOPY a.txt /x/y/renamed\n", TREE),
    Case("copy-file-into-directory", "FROM base\nCOPY a.txt /x/y/\n", TREE),
    Case("copy-two-files", "FROM base\nCOPY a.txt b.txt /x/\n", TREE),
    Case("copy-directory-contents", "FROM base\nCOPY dir /x\n", TREE),
    Case("copy-directory-with-slash", "FROM base\nCOPY dir/ /x/\n", TREE),
    Case("copy-everything", "FROM base\nCOPY . /x\n", TREE),
    Case("copy-relative-to-workdir", "FROM base\nWORKDIR /w\nCOPY a.txt .\nCOPY dir d\n", TREE),
    Case("copy-wildcard", "FROM base\nCOPY *.txt /x/\n", TREE),
    Case("copy-wildcard-in-directory", "FROM base\nCOPY dir/t* /x/\n", TREE),
    Case("copy-question-mark", "FROM base\nCOPY ?.txt /x/\n", TREE),
    Case("copy-character-class", "FROM base\nCOPY [ab].txt /x/\n", TREE),
    Case("copy-json-form-with-blanks", 'FROM base\nCOPY ["a b.txt", "/x y/"]\n', {"a b.txt": "blank\n"}),
    Case("copy-over-file", "FROM base\nCOPY a.txt /x\nCOPY b.txt /x\n", TREE),
    Case("copy-merges-directories", "FROM base\nCOPY dir /x\nCOPY empty /x\n", TREE),
    Case("copy-through-link-in-image", "FROM base\nRUN mkdir /real && ln -s /real /link\nCOPY a.txt /link/\n", TREE),
    Case("copy-to-link-to-file", "FROM base\nRUN echo old >/real && ln -s /real /link\nCOPY a.txt /link\n", TREE),
    Case("copy-directory-through-link", "FROM base\nRUN mkdir /real && ln -s /real /link\nCOPY dir /link\n", TREE),
    Case("copy-source-is-a-link", "FROM base\nCOPY link.txt /x/\n", {"a.txt": "a\n", "link.txt": "-> a.txt"}),
    Case("copy-chown-numbers", "FROM base\nCOPY --chown=12:34 dir /x\n", TREE),
    Case("copy-chown-names", "FROM base\nCOPY --chown=nobody:users a.txt /x/y/\n", TREE),
    Case("copy-chown-user-only-number", "FROM base\nCOPY --chown=12 a.txt /x/\n", TREE),
    Case("copy-chmod", "FROM base\nCOPY --chmod=640 a.txt b.txt /x/\n", TREE),
    Case(
        "copy-from-stage",
        "FROM base AS one\nRUN mkdir /o && echo 1 >/o/f && chown 5:6 /o/f && chmod 4755 /o/f\nFROM base\nCOPY --from=one /o /x\n",
    ),
    Case("copy-from-stage-number", "FROM base\nRUN echo 1 >/f\nFROM base\nCOPY --from=0 /f /x/\n"),
    Case("copy-from-stage-link", "FROM base AS one\nRUN echo 1 >/f && ln -s /f /l\nFROM base\nCOPY --from=one /l /x/\n"),
    Case("copy-from-image", "FROM scratch\nCOPY --from=base /etc/passwd /p\n"),
    Case(
        "copy-hard-links-from-stage",
        "FROM base AS one\nRUN mkdir /o && echo 1 >/o/a && ln /o/a /o/b\nFROM base\nCOPY --from=one /o /x\n",
    ),
    Case(
        "copy-with-ignore-file",
        "FROM base\nCOPY . /x/\n",
        {**TREE, ".dockerignore": "*.txt\n!b.txt\ndir/sub\n**/.hidden\nDockerfile\n"},
    ),
    Case(
        "copy-ignore-comment-and-blank",
        "FROM base\nCOPY . /x/\n",
        {**TREE, ".dockerignore": "# dir\n\n  dir/one  \n/a.txt\n.dockerignore\nDockerfile\n"},
    ),
    Case("copy-parent-of-context", "FROM base\nCOPY ../a.txt /x/\n", TREE),
    Case("copy-absolute-source", "FROM base\nCOPY /dir/one /x/\n", TREE),
    # -- ADD
    Case("add-file", "FROM base\nADD a.txt /x/\n", TREE),
    Case("add-directory", "FROM base\nADD dir /x\n", TREE),
    Case("add-tar", "FROM base\nADD archive.tar /x\n", {"archive.tar": "<tar>"}),
    Case("add-tar-gz-onto-scratch", "FROM scratch\nADD archive.tar.gz /\n", {"archive.tar.gz": "<tar.gz>"}),
    Case("add-tar-under-another-name", "FROM base\nADD archive /x/\n", {"archive": "<tar.gz>"}),
    Case("add-what-is-no-archive", "FROM base\nADD archive.tar.gz /x/\n", {"archive.tar.gz": "no archive\n"}),
    Case(
        "add-tar-over-directory",
        "FROM base\nRUN mkdir -p /x/d && touch /x/d/old\nADD archive.tar /x\n",
        {"archive.tar": "<tar>"},
    ),
    Case("add-chown", "FROM base\nADD --chown=7:8 a.txt /x/\n", TREE),
    # -- RUN
    Case("run-writes", "FROM base\nRUN echo hi >/f && mkdir -p /d/e && chmod 700 /d\n"),
    Case("run-deletes", "FROM base\nRUN touch /a /b && mkdir /d && touch /d/x\nRUN rm -r /a /d\n"),
    Case("run-replaces-directory", "FROM base\nRUN mkdir /d && touch /d/old\nRUN rm -r /d && mkdir /d && touch /d/new\n"),
    Case("run-file-becomes-directory", "FROM base\nRUN touch /x\nRUN rm /x && mkdir /x && touch /x/y\n"),
    Case("run-exec-form", 'FROM base\nRUN ["/bin/sh", "-c", "echo $HOME >/f"]\n'),
    Case("run-exec-form-does-not-expand", 'FROM base\nENV V=1\nRUN ["/bin/busybox", "touch", "/$V"]\n'),
    Case("run-json-that-is-none", 'FROM base\nRUN [ "$(echo a)" == "a" ] && touch /yes\n'),
    Case("run-continuation", "FROM base\nRUN echo one \\\n  # a comment\n  two \\\n\n  three >/f\n"),
    Case("run-as-user", "FROM base\nRUN mkdir -m 777 /d\nUSER nobody\nRUN touch /d/f && id -u >/d/id && id -g >>/d/id\n"),
    Case("run-in-workdir", "FROM base\nWORKDIR /a/b\nRUN pwd >f\n"),
    Case("run-environment", 'FROM base\nENV A=1 B=\'two words\' C="$A"\nRUN echo "$A|$B|$C|$PATH" >/f\n'),
    Case("run-arguments", 'FROM base\nARG X=default\nARG Y\nRUN echo "$X|$Y" >/f\n', {}, ("X=given", "Y=also")),
    Case("run-shell", 'FROM base\nSHELL ["/bin/busybox", "sh", "-e", "-c"]\nRUN echo $0 >/f; true\n'),
    Case(
        "run-links-and-special-files", "FROM base\nRUN echo 1 >/a && ln /a /b && ln -s /a /c && mkfifo /p && chmod 1777 /tmp\n"
    ),
    Case("run-special-modes", "FROM base\nRUN touch /s && chmod 6755 /s && mkdir /t && chmod 1777 /t && chown 3:4 /t\n"),
    # -- WORKDIR, USER, ENV, ARG
    Case("workdir-relative", "FROM base\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c\n"),
    Case("workdir-variable", "FROM base\nENV D=/x/y\nWORKDIR $D/z\n"),
    Case("workdir-through-link", "FROM base\nRUN mkdir /real && ln -s /real /link\nWORKDIR /link/sub\nRUN touch f\n"),
    Case("env-legacy-form", "FROM base\nENV one two = three  four\n"),
    Case("env-forms", "FROM base\nENV A=a B=b\\ c D=\"e f\" G='$A'\nENV A=${A}x E=${Z:-dflt} F=${A:+set} H=$A$B\n"),
    Case("env-old-values", "FROM base\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\n"),
    Case("env-beats-arg", "FROM base\nARG V=arg\nENV V=env\nRUN echo $V >/f\n", {}, ("V=given",)),
    Case("arg-global", 'ARG V=1\nFROM base\nARG V\nARG W=$V-w\nRUN echo "$V $W" >/f\n'),
    Case("arg-global-not-imported", 'ARG V=1\nFROM base\nRUN echo "<$V>" >/f\n'),
    Case("arg-in-from", "ARG NAME=base\nFROM ${NAME} AS x\nRUN touch /f\n"),
    Case("arg-stage-inherits", 'FROM base AS one\nARG V=1\nENV W=$V\nFROM one\nRUN echo "$W" >/f\n'),
    Case("arg-escape-directive", "# escape=`\nFROM base\nRUN echo one `\n two >/f\n"),
    # -- configuration
    Case(
        "config-everything",
        'FROM base\nLABEL a=1 "b c"="d e" f=\'g\'\n'
        'EXPOSE 80 443/tcp 53/udp\nVOLUME /v ["/w"]\nUSER 5:6\nSTOPSIGNAL SIGINT\nCMD ["a", "b"]\nENTRYPOINT ["e"]\n',
    ),
    Case("config-volume-json", 'FROM base\nVOLUME ["/v", "/w"]\n'),
    Case("config-shell-forms", "FROM base\nCMD echo $X\nENTRYPOINT exec top -b\n"),
    Case("config-entrypoint-resets-inherited-command", 'FROM base AS one\nCMD ["c"]\nFROM one\nENTRYPOINT ["e"]\n'),
    Case("config-command-then-entrypoint", 'FROM base\nCMD ["c"]\nENTRYPOINT ["e"]\n'),
    Case("config-empty-entrypoint", 'FROM base AS one\nENTRYPOINT ["e"]\nFROM one\nENTRYPOINT []\nCMD []\n'),
    Case("config-expose-range", "FROM base\nEXPOSE 8000-8003\nENV P=9\nEXPOSE $P\n"),
    Case("config-healthcheck", "FROM base\nHEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD test -f /f\n"),
    Case("config-healthcheck-none", "FROM base AS one\nHEALTHCHECK CMD true\nFROM one\nHEALTHCHECK NONE\n"),
    Case("config-maintainer", "FROM base\nMAINTAINER Some One <one@example.org>\n"),
    Case("config-label-inheritance", "FROM base AS one\nLABEL a=1 b=2\nFROM one\nLABEL b=3\n"),
    Case("config-onbuild", "FROM base\nONBUILD RUN touch /triggered\nONBUILD COPY . /x\n"),
    Case("config-shell", 'FROM base\nSHELL ["/bin/sh", "-ec"]\nCMD echo hi\n'),
    Case(
        "onbuild-in-one-file",
        "FROM base AS one\nONBUILD RUN touch /triggered\nFROM one\nRUN test -f /triggered && touch /after\n",
    ),
    Case("target-with-unused-stage", "FROM base AS unused\nRUN exit 1\nFROM base AS used\nRUN touch /f\n"),
    Case(
        "stages-side-by-side",
        "FROM base AS l\nRUN echo l >/l\nFROM base AS r\nRUN echo r >/r\nFROM base\nCOPY --from=l /l /\nCOPY --from=r /r /\n",
    ),
    Case("mount-bind", "FROM base\nRUN --mount=type=bind,source=dir,target=/m cp /m/one /f\n", TREE),
    Case(
        "mount-cache-and-tmpfs",
        "FROM base\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t touch /c/x /t/y && echo done >/f\n",
    ),
    Case("windows-line-ends", "FROM base\r\nENV A=1\r\nRUN echo $A >/f\r\n"),
    Case("lower-case-instructions", 'from base\nenv a=1\nrun touch /f\ncmd ["x"]\n'),
    Case("byte-order-mark", "\ufeffFROM base\nRUN touch /f\n"),
)
