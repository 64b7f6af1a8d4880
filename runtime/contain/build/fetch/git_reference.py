"""What the address of a git repository means: ``https://host/repo.git#ref:subdir?key=value`` and its relatives. Pure.

Source of the rules: BuildKit's ``frontend/dockerfile/dfgitutil/git_ref.go`` and ``util/gitutil/git_url.go``. An address over HTTP is a
repository only when its path ends with ``.git``; ``git://``, ``ssh://`` and ``user@host:path`` always are. Which commit a name stands
for (`choose_commit`) follows ``source/git/source.go``: a branch before a tag of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from contain.dockerfile.patterns import clean_path
from contain.errors import IntegrityError, NotFound, SourceSpan, UsageError
from contain.values import dataclass

_SCHEME = re.compile(r"^[a-zA-Z0-9]+://")
_SCHEMES = frozenset({"http", "https", "ssh", "git"})
_SSH_SHORT = re.compile(r"^([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):(.*?)(?:\?(.*?))?(?:#(.*))?$", re.DOTALL)
_COMMIT = re.compile(r"^(?:[0-9a-fA-F]{40}|[0-9a-fA-F]{64})$")
_SWITCHES = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_SWITCH_KEYS = frozenset({"submodules", "keep-git-dir", "fetch-by-commit"})
_KEYS = frozenset({"ref", "tag", "branch", "subdir", "checksum", "commit", "mtime"}) | _SWITCH_KEYS


@dataclass(frozen=True, slots=True, kw_only=True)
class GitReference:
    """``remote``: what git is given. ``ref``: a branch, a tag, a full commit, or "" for the remote's own choice.

    ``checksum``: how the commit must begin. ``subdir``: only this directory of the repository. ``keep_git_dir`` and ``submodules``:
    None where nothing is said. ``like_a_path``: ``github.com/owner/name``, which only means a repository where no path can stand.
    """

    remote: str
    name: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False
    like_a_path: bool = False

    @property
    def shown(self) -> str:
        """The remote without a password, for messages, history and what is written into images."""
        return hide_password(self.remote)


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRevision:
    """What a reference stands for now. ``commit``: in full. ``ref``: its full name at the remote, "" for a bare commit."""

    commit: str
    ref: str = ""


def parse_git_reference(text: str, *, span: SourceSpan | None = None) -> GitReference | None:
    """The repository that ``text`` names, or None if it names none. Raises `UsageError` (code ``bad-git-reference``)."""
    like_a_path = text.startswith("github.com/")
    match = _SCHEME.match(text)
    if match or like_a_path:
        try:
            parts = urlsplit(f"https://{text}" if like_a_path else text)
        except ValueError as error:
            raise _bad(f"{hide_password(text)!r} is no address: {error}", span) from error
        scheme = "https" if like_a_path else match[0][:-3].lower() if match else ""
        if scheme not in _SCHEMES:
            return None
        if scheme in ("http", "https") and not like_a_path and not parts.path.endswith(".git"):
            return None
        remote = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
        query, fragment = parts.query, unquote(parts.fragment)
    else:
        short = _SSH_SHORT.match(text)
        if short is None or text.startswith(("./", "../")):
            return None
        remote = f"{short[1]}@{short[2]}:{short[3]}"
        query, fragment = short[4] or "", short[5] or ""
    ref, _, subdir = fragment.partition(":")
    values = {
        "remote": remote,
        "name": remote.rpartition("/")[2].rpartition(":")[2].removesuffix(".git"),
        "ref": ref,
        "subdir": clean_path("/" + subdir).lstrip("/"),
        "like_a_path": like_a_path,
        **_read_query(query, ref, clean_path("/" + subdir).lstrip("/"), span),
    }
    for key in ("remote", "ref", "subdir", "checksum"):
        if str(values[key]).startswith("-") or any(character in str(values[key]) for character in "\0\n"):
            raise _bad(f"the {key} {values[key]!r} is not a name", span)
    return GitReference(**values)  # type: ignore[arg-type]


def _bad(message: str, span: SourceSpan | None) -> UsageError:
    return UsageError(message, code="bad-git-reference", span=span, remedy="write https://host/repository.git#ref:directory")


def _read_query(query: str, ref: str, subdir: str, span: SourceSpan | None) -> dict[str, object]:
    found: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in found:
            raise _bad(f"query {key!r} has multiple values", span)
        if key not in _KEYS:
            raise _bad(f"unexpected query {key!r}", span)
        if not value and key not in _SWITCH_KEYS:
            raise _bad(f"query {key!r} has no value", span)
        found[key] = value
    result: dict[str, object] = {}
    names = [ref, found.get("ref", "")]
    if "tag" in found and "branch" in found:
        raise _bad("branch conflicts with tag", span)
    if "tag" in found:
        names.append("refs/tags/" + found["tag"].removeprefix("refs/tags/"))
    if "branch" in found:
        names.append("refs/heads/" + found["branch"].removeprefix("refs/heads/"))
    said = list(dict.fromkeys(name for name in names if name))
    if len(said) > 1:
        raise _bad(f"ref conflicts: {said[0]!r} vs {said[1]!r}", span)
    result["ref"] = said[0] if said else ""
    if "subdir" in found:
        wanted = clean_path("/" + found["subdir"]).lstrip("/")
        if subdir and subdir != wanted:
            raise _bad(f"subdir conflicts: {subdir!r} vs {found['subdir']!r}", span)
        result["subdir"] = wanted
    checksums = {found[key] for key in ("checksum", "commit") if key in found}
    if len(checksums) > 1:
        raise _bad(f"commit {found['commit']!r} conflicts with checksum {found['checksum']!r}", span)
    result["checksum"] = next(iter(checksums), "")
    if found.get("mtime", "checkout") not in ("checkout", "commit"):
        raise _bad(f'invalid mtime value: {found["mtime"]!r} (must be "checkout" or "commit")', span)
    result["mtime"] = found.get("mtime", "")
    for key, name in (("keep-git-dir", "keep_git_dir"), ("submodules", "submodules"), ("fetch-by-commit", "fetch_by_commit")):
        if key in found:
            value = found[key].lower()
            if value and value not in _SWITCHES:
                raise _bad(f"invalid {key} value: {found[key]!r}", span)
            result[name] = _SWITCHES[value] if value else True
    return result


def is_commit(text: str) -> bool:
    """Whether it is a whole commit's name: 40 or 64 hexadecimal digits."""
    return _COMMIT.match(text) is not None


def check_checksum(text: str, *, span: SourceSpan | None = None) -> None:
    """Raise `UsageError` (code ``bad-checksum``) unless it can be how a commit begins."""
    if not re.match(r"^[0-9a-fA-F]{1,64}\Z", text):
        raise UsageError(
            f"invalid checksum {text!r} for a git repository, expected hex commit hash", code="bad-checksum", span=span
        )


def choose_commit(reference: GitReference, advertised: Mapping[str, str], *, checksum: str = "") -> GitRevision:
    """The commit among what the remote says it has: full name -> object, ``name^{}`` -> the commit that a tag stands for.

    Raises `NotFound` (code ``git-ref-not-found``), `IntegrityError` (code ``checksum-mismatch``).
    """
    ref = reference.ref or "HEAD"
    names = [
        "refs/heads/" + ref.removeprefix("refs/heads/"),
        "refs/" + ref.removeprefix("refs/"),
        "refs/tags/" + ref.removeprefix("refs/tags/"),
    ]
    if ref == "HEAD":
        names.insert(0, ref)
    name = next((name for name in names if name in advertised), None)
    if name is None:
        raise NotFound(f"repository does not contain ref {ref}: {reference.shown}", code="git-ref-not-found")
    commit = advertised.get(f"{name}^{{}}", advertised[name])
    if checksum and not any(each.startswith(checksum.lower()) for each in (commit, advertised[name])):
        raise checksum_mismatch(reference, checksum, commit)
    return GitRevision(commit=commit, ref=name)


def checksum_mismatch(reference: GitReference, checksum: str, commit: str) -> IntegrityError:
    """The error for a commit that is not the one that was asked for."""
    return IntegrityError(
        f"{reference.shown}: expected checksum to match {checksum}, got {commit}",
        code="checksum-mismatch",
        remedy=f"if the repository was meant to move on, write --checksum={commit}",
    )


def hide_password(address: str) -> str:
    """An address without what stands before ``@``, except a user name of ssh."""
    match = re.match(r"^([a-zA-Z0-9]+://)([^/@]*)@(.*)$", address, re.DOTALL)
    if match is None:
        return address
    user, colon, _ = match[2].partition(":")
    if match[1].lower() == "ssh://":
        return f"{match[1]}{user}@{match[3]}"
    return f"{match[1]}{'***@' if colon or user else ''}{match[3]}"
