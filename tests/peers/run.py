"""Builds every case with contain and with each other builder that is installed, and compares files and configuration.

    python tests/peers/run.py [--only NAME] [--keep-going]

Builders: Docker's classic one, its BuildKit, buildah. A difference must be one that `explained.EXPLAINED` gives a reason for; any
other ends with status 1. A builder that is not here, or that does not know a case's syntax, is said to be so. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "benchmarks")]

from cases import CASES, Case  # noqa: E402 - a script's own neighbours
from explained import EXPLAINED  # noqa: E402
from peers import docker_program, open_docker  # noqa: E402

CONTAIN = [sys.executable, "-m", "contain.cli.start"]
CONFIG_KEYS = (
    *("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes"),
    *("Labels", "StopSignal", "OnBuild", "Healthcheck", "Shell"),
)
Result = dict[str, str]
Builder = Callable[[Case, Path], Result | None]
"""Builds a case in a context directory: what it made, or None if the builder refuses it."""


def call(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command, with its output."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def must(*command: str) -> str:
    """The output of a command that must succeed."""
    done = call(*command)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.strip()


# -- contexts -------------------------------------------------------------------------------------------------------------------


def small_archive() -> bytes:
    """A tar with owners, modes, a link, a hard link and a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", mode: int = 0o644, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid, info.size, info.linkname = kind, mode, 11, 12, len(content), link
            info.mtime = 915_148_800
            archive.addfile(info, io.BytesIO(content))

        add("d", tarfile.DIRTYPE, mode=0o750)
        add("d/file", content=b"content\n", mode=0o4711)
        add("d/hard", tarfile.LNKTYPE, mode=0o4711, link="d/file")
        add("soft", tarfile.SYMTYPE, link="d/file")
    return out.getvalue()


def write_context(case: Case, directory: Path) -> None:
    """The case's files and Dockerfile, with modes that do not depend on the umask."""
    directory.mkdir()
    for name, value in {**case.files, "Dockerfile": case.dockerfile}.items():
        text, mode = value if isinstance(value, tuple) else (value, 0o644)
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
            continue
        data = {"<tar>": small_archive(), "<tar.gz>": gzip.compress(small_archive(), mtime=0)}.get(text)
        path.write_bytes(text.encode() if data is None else data)
        path.chmod(mode)
    for found in [directory, *directory.rglob("*")]:
        if found.is_dir() and not found.is_symlink():
            found.chmod(0o755)


# -- results --------------------------------------------------------------------------------------------------------------------


def read_archive(path: Path) -> Result:
    """A file of ``docker save``: its merged files, and the configuration, a line each."""
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            member = archive.extractfile(name)
            assert member is not None
            return member.read()

        entry = json.loads(read("manifest.json"))[0]
        config = json.loads(read(entry["Config"]))["config"]
        files: Result = {}
        for layer in entry["Layers"]:
            apply_layer(read(layer), files)
    found = {f"file {name}": line for name, line in files.items()}
    for key in CONFIG_KEYS:
        if value := config.get(key):
            found[f"config {key}"] = json.dumps(value, sort_keys=True)
    return found


def apply_layer(data: bytes, files: Result) -> None:
    """One layer over what is there; a name's line says everything but times."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
        added: set[str] = set()
        for member in layer:
            name = "/" + member.name.strip("./") if member.name.strip("./") else "/"
            if not member.name.startswith("./") and member.name.startswith("."):
                name = "/" + member.name.rstrip("/")
            directory, _, last = name.rpartition("/")
            if last == ".wh..wh..opq":
                remove_below(files, directory, keep=added)
                continue
            if last.startswith(".wh."):
                remove(files, f"{directory}/{last[4:]}")
                continue
            added.add(name)
            if name == "/":
                continue  # builders differ in whether they state the root at all
            if not member.isdir():
                remove(files, name)
            files[name] = describe(layer, member, files)


def describe(layer: tarfile.TarFile, member: tarfile.TarInfo, files: Result) -> str:
    """Kind, mode, owner and content of an entry."""
    owner = f"{member.mode & 0o7777:o} {member.uid}:{member.gid}"
    if member.isdir():
        return f"directory {owner}"
    if member.issym():
        return f"link {member.uid}:{member.gid} -> {member.linkname}"
    if member.islnk():
        return files.get("/" + member.linkname.strip("./"), "hard link to nothing")
    if member.isreg():
        content = layer.extractfile(member)
        assert content is not None
        return f"file {owner} {hashlib.sha256(content.read()).hexdigest()[:12]}"
    return f"type {member.type!r} {owner}"


def remove(files: Result, name: str) -> None:
    """A name and everything below it."""
    files.pop(name, None)
    remove_below(files, name, keep=set())


def remove_below(files: Result, directory: str, *, keep: set[str]) -> None:
    """What is below a directory, except what this layer added."""
    for found in [found for found in files if found.startswith(directory + "/") and found not in keep]:
        del files[found]


# -- builders -------------------------------------------------------------------------------------------------------------------


def refused(case: Case, builder: str, done: subprocess.CompletedProcess[str]) -> None:
    """Say that a builder does not build a case, with the end of its words."""
    words = " ".join((done.stdout + done.stderr).split())
    print(f"  {builder} refuses {case.name}: {words[-300:]}")


def contain_builder(work: Path) -> Builder:
    """Ours: with a store below ``work``."""

    def build(case: Case, context: Path) -> Result | None:
        flags = [flag for argument in case.arguments for flag in ("--build-arg", argument)]
        done = call(*CONTAIN, "build", "-q", "--no-reproducible", "-t", "case", *flags, str(context))
        if done.returncode:
            refused(case, "contain", done)
            return None
        target = work / "contain.tar"
        must(*CONTAIN, "save", "-o", str(target), "case")
        return read_archive(target)

    return build


def docker_builder(docker: list[str], work: Path, *, buildkit: bool) -> Builder:
    """Docker's builder, old or new."""

    def build(case: Case, context: Path) -> Result | None:
        flags = [flag for argument in case.arguments for flag in ("--build-arg", argument)]
        done = call(*docker, "build", "-q", "-t", "case", *flags, str(context), DOCKER_BUILDKIT="1" if buildkit else "0")
        if done.returncode:
            refused(case, "docker-buildkit" if buildkit else "docker-classic", done)
            return None
        target = work / "docker.tar"
        must(*docker, "save", "-o", str(target), "case")
        return read_archive(target)

    return build


def buildah_builder(work: Path) -> Builder:
    """buildah, with a store of its own and its plain storage driver."""
    buildah = ["buildah", "--root", str(work / "buildah"), "--runroot", str(work / "buildah-run"), "--storage-driver", "vfs"]

    def build(case: Case, context: Path) -> Result | None:
        flags = [flag for argument in case.arguments for flag in ("--build-arg", argument)]
        command = [*buildah, "build", "-q", "--isolation", "chroot", "--format", "docker", "--layers", "-t", "case", *flags]
        done = call(*command, str(context))
        if done.returncode:
            refused(case, "buildah", done)
            return None
        target = work / "buildah.tar"
        target.unlink(missing_ok=True)
        must(*buildah, "push", "case", f"docker-archive:{target}:case")
        return read_archive(target)

    must(*buildah, "pull", f"docker-archive:{work / 'base.tar'}")
    return build


@contextlib.contextmanager
def open_builders(work: Path) -> Iterator[Mapping[str, Builder]]:
    """Every builder that is here, each with the base image."""
    root = work / "base"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    for name in ("dev", "proc", "sys", "run", "tmp"):  # where builders mount something, and some leave what they mounted it on
        (root / name).mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    for applet in must(str(root / "bin/busybox"), "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nusers:x:100:\nnogroup:x:65534:\n")
    must("tar", "-C", str(root), "--owner=0", "--group=0", "-cf", str(work / "rootfs.tar"), ".")
    must(*CONTAIN, "import", str(work / "rootfs.tar"), "base")
    must(*CONTAIN, "save", "-o", str(work / "base.tar"), "base")
    builders: dict[str, Builder] = {"contain": contain_builder(work)}
    with contextlib.ExitStack() as stack:
        docker = stack.enter_context(open_docker(work)) if docker_program() else None
        if docker:
            must(*docker, "load", "-i", str(work / "base.tar"))
            builders["docker-classic"] = docker_builder(docker, work, buildkit=False)
            builders["docker-buildkit"] = docker_builder(docker, work, buildkit=True)
        else:
            print("Docker is not installed: not compared with it")
        if shutil.which("buildah"):
            builders["buildah"] = buildah_builder(work)
        else:
            print("buildah is not installed: not compared with it")
        yield builders


# -- comparison -----------------------------------------------------------------------------------------------------------------


def differences(ours: Result, theirs: Result) -> dict[str, tuple[str, str]]:
    """What is not the same: ours, theirs."""
    return {
        key: (ours.get(key, "-"), theirs.get(key, "-"))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


def reason(case: Case, builder: str, key: str) -> str | None:
    """Why a difference is right, if somebody has said so."""
    for row in EXPLAINED:
        if row.covers(case.name, builder, key):
            return row.reason
    return None


def main() -> int:
    """The exit status: 1 for a difference that nobody has explained."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    status, explained, refused, compared = 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="contain-peers.") as place:
        work = Path(place)
        os.environ["CONTAIN_HOME"] = str(work / "store")
        with open_builders(work) as builders:
            for number, case in enumerate(cases):
                context = work / f"context-{number}"
                write_context(case, context)
                results = {name: build(case, context) for name, build in builders.items()}
                ours = results.pop("contain")
                built = {name: result for name, result in results.items() if result is not None}
                refused += len(results) - len(built)
                if ours is None:
                    status = 1 if built else status
                    print(f"{case.name}: NOT BUILT here, built by {', '.join(built) or 'nobody'}")
                    continue
                lines = []
                for name, theirs in built.items():
                    compared += 1
                    for key, (own, other) in differences(ours, theirs).items():
                        why = reason(case, name, key)
                        explained += why is not None
                        if why is None:
                            status = 1
                            lines.append(f"  {name}: {key}\n    ours   {own}\n    theirs {other}")
                print(f"{case.name}: {'same as ' + ', '.join(built) if not lines else 'DIFFERS'}")
                print("\n".join(lines), end="\n" if lines else "")
                shutil.rmtree(context)
    print(
        f"{len(cases)} Dockerfiles, {compared} comparisons, {explained} differences explained, {refused} builds refused by a peer"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
