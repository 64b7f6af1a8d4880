"""Fetches a commit of a git repository with the ``git`` program. Decides nothing about names: see `contain.build.fetch.git_reference`.

For whoever needs a repository's files::

    reference = parse_git_reference("https://host/repo.git#v1:docs")
    revision = resolve_git(reference)                      # asks the remote, unless the reference is a whole commit
    directory = fetch_git(reference, revision, scratch)    # an empty directory of the caller's; what it holds is gone with it

What arrives depends on the commit alone: git runs with umask 022 and without line-end conversion, hooks or the user's filters.
Times are those of the checkout and mean nothing; who puts the files into an image gives them the build's. A kept ``.git`` is made anew
(one pack, an index without stat data), so that it is the same on every machine with the same version of git.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from contain.annotations import Protocol
from contain.build.fetch.git_reference import (
    GitReference,
    GitRevision,
    check_checksum,
    checksum_mismatch,
    choose_commit,
    is_commit,
)
from contain.errors import HostError, NotFound, RegistryError
from contain.paths import HostPath

_SETTINGS = {
    "advice.detachedHead": "false",
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.fileMode": "true",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.symlinks": "true",
    "gc.auto": "0",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "main",
    "init.templateDir": "",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "protocol.file.allow": "user",
    "safe.directory": "*",
    "submodule.recurse": "false",
}
_ERROR_LINES = 6
_KEPT_VARIABLES = (
    "GIT_SSH",
    "GIT_SSL",
    "GIT_CONFIG",
    "GIT_ASKPASS",
    "GIT_PROXY",
    "GIT_HTTP",
    "GIT_EXEC_PATH",
    "GIT_ALLOW_PROTOCOL",
)


class _Git(Protocol):
    def __call__(self, *arguments: str, own: bool = True) -> bytes: ...


def resolve_git(reference: GitReference, *, checksum: str = "", environ: Mapping[str, str] | None = None) -> GitRevision:
    """The commit that a reference stands for now. A whole commit is not asked about.

    Raises `NotFound` (``git-ref-not-found``), `IntegrityError` (``checksum-mismatch``), `RegistryError` (``git-failed``), `HostError`
    (``git-missing``), `UsageError` (``bad-checksum``).
    """
    checksum = checksum or reference.checksum
    if checksum:
        check_checksum(checksum)
    if is_commit(reference.ref):
        if checksum and not reference.ref.lower().startswith(checksum.lower()):
            raise checksum_mismatch(reference, checksum, reference.ref)
        return GitRevision(commit=reference.ref.lower())
    if reference.fetch_by_commit and is_commit(checksum):
        return GitRevision(commit=checksum.lower(), ref=reference.ref)
    ref = reference.ref or "HEAD"
    patterns = [ref] if ref == "HEAD" else [ref, f"{ref}^{{}}"]
    output = _git(["ls-remote", "--", reference.remote, *patterns], reference=reference, environ=environ)
    rows = (line.split("\t", 1) for line in output.decode("utf-8", "replace").splitlines())
    advertised = {row[1]: row[0] for row in rows if len(row) == 2 and is_commit(row[0])}
    return choose_commit(reference, advertised, checksum=checksum)


def fetch_git(
    reference: GitReference,
    revision: GitRevision,
    scratch: HostPath,
    *,
    keep_git_dir: bool | None = None,
    submodules: bool | None = None,
    environ: Mapping[str, str] | None = None,
) -> HostPath:
    """The files of a commit, in a directory below ``scratch``. ``keep_git_dir`` None: as the reference says, else no.

    Raises `RegistryError` (``git-failed``), `NotFound` (``git-subdir-not-found``), `HostError` (``git-missing``).
    """
    keep = bool(reference.keep_git_dir if keep_git_dir is None else keep_git_dir)
    wanted = reference.submodules is not False if submodules is None else submodules
    tree, store = scratch / "tree", scratch / "git"
    tree.mkdir()

    def git(*arguments: str, own: bool = True) -> bytes:
        return _git(list(arguments), reference=reference, environ=environ, directory=tree, git_dir=store, own=own)

    kind = "sha256" if len(revision.commit) == 64 else "sha1"
    git("init", "--quiet", f"--object-format={kind}", "--", str(tree))
    git("remote", "add", "origin", reference.remote)
    _fetch(git, revision)
    git("update-ref", "--no-deref", "HEAD", revision.commit)
    git("read-tree", "HEAD")
    git("checkout-index", "--all", "--force")
    if wanted and (tree / ".gitmodules").exists():
        try:
            git("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", own=False)
        except RegistryError:  # a server that knows no depth
            git("submodule", "--quiet", "update", "--init", "--recursive", "--force", own=False)
    _drop_git_files(tree)
    if keep and not reference.subdir:
        _make_git_dir(tree, store, reference, revision, environ)
    shutil.rmtree(store)
    return _below(tree, reference)


def _fetch(git: _Git, revision: GitRevision) -> None:
    """The commit with as little history as the remote can be talked into."""
    attempts = [["--depth=1", "origin", revision.commit]]
    if revision.ref:
        attempts.append(["--depth=1", "origin", revision.ref])
        attempts.append(["origin", revision.ref])
    # A server that speaks only the plainest protocol knows neither depth nor commits: everything, once.
    attempts.append(["origin", "+refs/*:refs/remotes/origin/*"])
    for number, attempt in enumerate(attempts, 1):
        try:
            git("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", *attempt, own=False)
            git("cat-file", "-e", f"{revision.commit}^{{commit}}")
            return
        except RegistryError:
            if number == len(attempts):
                raise


def _make_git_dir(
    tree: HostPath, store: HostPath, reference: GitReference, revision: GitRevision, environ: Mapping[str, str] | None
) -> None:
    """A ``.git`` that holds this commit and nothing that differs from one fetch of it to the next."""
    fresh = tree / ".git"

    def git(*arguments: str) -> None:
        _git(list(arguments), reference=reference, environ=environ, directory=tree, git_dir=fresh)

    git("init", "--quiet", f"--object-format={'sha256' if len(revision.commit) == 64 else 'sha1'}", "--", str(tree))
    git("fetch", "--quiet", "--no-tags", "--depth=1", f"file://{store}", "HEAD")
    git("update-ref", "--no-deref", "HEAD", revision.commit)
    if revision.ref.startswith("refs/tags/"):
        git("update-ref", revision.ref, revision.commit)
    git("remote", "add", "origin", reference.shown)
    git("repack", "-a", "-d", "-f", "-q", "--window=10", "--depth=50")
    git("read-tree", "HEAD")
    for name in ("FETCH_HEAD", "ORIG_HEAD", "logs", "branches", "hooks", "description"):
        path = fresh / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _drop_git_files(tree: HostPath) -> None:
    """Submodules have a ``.git`` file that says where their repository is; in an image it would lead nowhere."""
    for directory, names, files in os.walk(tree):
        if ".git" in files:
            os.unlink(os.path.join(directory, ".git"))
        if ".git" in names:
            shutil.rmtree(os.path.join(directory, ".git"))
            names.remove(".git")


def _below(tree: HostPath, reference: GitReference) -> HostPath:
    """The wanted directory of the repository; no link of the repository is followed on the way."""
    path = tree
    for part in filter(None, reference.subdir.split("/")):
        path = path / part
        if path.is_symlink() or not path.is_dir():
            raise NotFound(f"{reference.shown} has no directory {reference.subdir!r}", code="git-subdir-not-found")
    return path


def _git(
    arguments: list[str],
    *,
    reference: GitReference,
    environ: Mapping[str, str] | None,
    directory: HostPath | None = None,
    git_dir: HostPath | None = None,
    own: bool = True,
) -> bytes:
    """One command's output. ``own``: without the user's settings, which are for talking to the remote only.

    Raises `HostError` (``git-missing``), `RegistryError` (``git-failed``).
    """
    settings = dict(os.environ if environ is None else environ)
    for name in [name for name in settings if name.startswith("GIT_") and not name.startswith(_KEPT_VARIABLES)]:
        del settings[name]
    count = int(settings.get("GIT_CONFIG_COUNT", "0") or 0) if not own else 0
    for number, (name, value) in enumerate(_SETTINGS.items(), count):
        settings[f"GIT_CONFIG_KEY_{number}"], settings[f"GIT_CONFIG_VALUE_{number}"] = name, value
    settings["GIT_CONFIG_COUNT"] = str(count + len(_SETTINGS))
    settings |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    settings.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
    if own:
        settings |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    if git_dir is not None:
        settings |= {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(directory)}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            umask=0o022,
            check=False,
        )
    except FileNotFoundError as error:
        raise HostError(
            "a git repository needs the program git, and this machine has none",
            call="execve",
            path="git",
            errno=error.errno or 0,
            remedy="install git (Debian: apt-get install git)",
            code="git-missing",
        ) from error
    if done.returncode != 0:
        said = hide_password_in(done.stderr.decode("utf-8", "replace"), reference)
        lines = [line for line in said.splitlines() if line.strip()]
        raise RegistryError(
            f"git {arguments[0]} of {reference.shown} failed: " + "\n".join(lines[-_ERROR_LINES:]),
            code="git-failed",
            remedy="git's own configuration is used: what 'git ls-remote ADDRESS' can read here can be added",
        )
    return done.stdout


def hide_password_in(text: str, reference: GitReference) -> str:
    """What git said, without the password that stands in the address."""
    return text.replace(reference.remote, reference.shown)
