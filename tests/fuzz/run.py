"""Gives the readers of untrusted bytes long runs of hostile input: guided by coverage with atheris, else with Hypothesis.

``python tests/fuzz/run.py [--seconds N] [--target NAME]... [--corpus DIRECTORY]``. The targets are those of
``tests/property/test_fuzz_readers.py``. Each runs in a process of its own. What makes one fail is kept below the corpus's
directory, printed, and makes the exit status 1; put it into the tests when it is mended.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve()
MODULE = HERE.parents[1] / "property" / "test_fuzz_readers.py"
PER_INPUT_SECONDS = 20
MEMORY = "/dev/shm"


def load_targets() -> ModuleType:
    """The module that holds ``TARGETS``, ``SEEDS`` and ``inputs``."""
    specification = importlib.util.spec_from_file_location("fuzz_readers", MODULE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["fuzz_readers"] = module
    specification.loader.exec_module(module)
    return module


def run_atheris(name: str, seconds: int, corpus: Path) -> None:
    """Until the time is over, or an input makes the target fail, which ends the process."""
    atheris: Any = importlib.import_module("atheris")  # without annotations, and not everywhere
    with atheris.instrument_imports(include=["contain"]):
        module = load_targets()
    place = corpus / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.SEEDS[name]):
        (place / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-timeout={PER_INPUT_SECONDS}",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={place}/failed-",
        str(place),
    ]
    atheris.Setup(arguments, module.TARGETS[name])
    atheris.Fuzz()


def run_hypothesis(name: str, seconds: int) -> None:
    """Many examples, a thousand at a time, until the time is over."""
    from hypothesis import HealthCheck, given, settings

    module = load_targets()
    target: Any = module.TARGETS[name]
    end = time.monotonic() + seconds
    count = 0

    @settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=module.inputs(name))
    def run(data: bytes) -> None:
        nonlocal count
        count += 1
        target(data)

    while time.monotonic() < end:
        run()
    sys.stderr.write(f"{name}: {count} inputs\n")


def main() -> int:
    """Every target in turn; 1 if one failed."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of untrusted bytes.")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (default: 60)")
    parser.add_argument("--target", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--corpus", type=Path, default=Path("fuzz-corpus"), metavar="DIRECTORY", help="what is kept between runs"
    )
    parser.add_argument("--hypothesis", action="store_true", help="not atheris, even if it is installed")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    guided = not options.hypothesis and importlib.util.find_spec("atheris") is not None
    if options.one:
        if guided:
            run_atheris(options.one, options.seconds, options.corpus)
        else:
            run_hypothesis(options.one, options.seconds)
        return 0
    targets = load_targets().TARGETS
    unknown = [name for name in options.target if name not in targets]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(targets)}")
    sys.stderr.write("guided by coverage, with atheris\n" if guided else "not guided: atheris is not installed; Hypothesis\n")
    failed = []
    for name in options.target or targets:
        sys.stderr.write(f"{name}\n")
        command = [sys.executable, str(HERE), "--one", name, "--seconds", str(options.seconds), "--corpus", str(options.corpus)]
        # The fuzzer ends its process where it stands, so what a target has on disk then is removed here.
        with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None, prefix="contain-fuzz-") as scratch:
            environment = {**os.environ, "CONTAIN_FUZZ_SCRATCH": scratch}
            done = subprocess.run([*command, *(["--hypothesis"] if options.hypothesis else [])], check=False, env=environment)
        if done.returncode:
            failed.append(name)
    sys.stderr.write(f"failed: {', '.join(failed)}\n" if failed else "nothing failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
