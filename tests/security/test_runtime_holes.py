"""More of the known ways out of containers of other runtimes, tried on ours: devices, terminals, descriptors, what is shipped."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from contain.container.execute import ExecRequest, _launch
from contain.container.processes import read_processes, read_usage
from contain.spec import Bind, Identity
from tests.security.attacks import WORKER, detached, output_of, read_terminal, untouched

if TYPE_CHECKING:
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]


# -- 3, 4 ----------------------------------------------------------------------------------------------------------------------


def test_cve_2025_31133_a_null_device_that_is_a_link_masks_nothing(ground: Ground, outside: Path) -> None:
    """A volume at /dev, whose null is a link: what is masked must neither show nor write the link's end."""
    devices = ground.directory / "devices"
    devices.mkdir()
    (devices / "null").symlink_to("/outside/canary")
    outcome = ground.sh(
        "stat -c %t:%T /proc/keys; cat /proc/keys; echo x > /proc/keys",
        mounts=(
            Bind(source=devices, target=PurePosixPath("/dev")),
            Bind(source=outside, target=PurePosixPath("/outside")),
        ),
    )
    assert outcome.out == "1:3\n"
    assert untouched(outside)


def test_cve_2025_52565_a_console_exchanged_for_a_link_is_not_opened_for_exec(ground: Ground) -> None:
    """Exec opens the terminal while it still is root: whatever the container put at a terminal's name must not be taken for one."""
    upper = ground.directory / "upper"
    prepare = "echo secret > /secret; chmod 600 /secret; rm -f /dev/console /dev/ptmx; ln -s /secret /dev/console; "
    with detached(ground, "sh", "-c", prepare + "ln -s /secret /dev/ptmx; exec sleep 100", upper=upper) as (_, record):
        while "secret" not in output_of(record, "cat", "/secret"):
            pass
        request = ExecRequest(
            arguments=("sh", "-c", "tty; echo taken"),
            environment=(("PATH", "/bin:/usr/bin"),),
            working_directory="/",
            identity=WORKER,
            terminal=True,
        )
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(os.close, null)
            launched = _launch(cleanup, record, request, (null, null, null))
            said = read_terminal(launched)
            launched.wait()
        assert output_of(record, "cat", "/secret") == "secret\n"
    assert "/dev/pts/" in said
    assert "secret" not in said


# -- 11 ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [Identity(), WORKER])
def test_cve_2022_24769_nothing_is_inheritable_or_ambient(ground: Ground, identity: Identity) -> None:
    text = ground.run("cat", "/proc/self/status", identity=identity).out
    rows = {line.split(":")[0]: line.split(":")[1].strip() for line in text.splitlines() if line.startswith("Cap")}
    own = "00000000a80425fb" if identity.user_id == 0 else "0" * 16
    assert rows == {"CapInh": "0" * 16, "CapAmb": "0" * 16, "CapPrm": own, "CapEff": own, "CapBnd": "00000000a80425fb"}


# -- 20 ------------------------------------------------------------------------------------------------------------------------


def test_cve_2022_1227_top_and_stats_run_no_program_of_the_image(ground: Ground, image: Path, outside: Path) -> None:
    """Programs of the image that would write the canary, were they run where they can reach it."""
    shutil.copy((image / "bin/sleep").resolve(), image / "sleep")
    for name in ("ps", "top", "nsenter", "cat", "sh"):
        (image / "bin" / name).unlink(missing_ok=True)
        (image / "bin" / name).write_text(f"#!/bin/sh\necho owned > {outside}/canary\n")
        (image / "bin" / name).chmod(0o755)
    with detached(ground, "/sleep", "100", layers=(image,), upper=ground.directory / "upper") as (_, record):
        (row,) = read_processes(record)
        assert row.command == "/sleep 100"
        assert read_usage(record).processes == 1
    assert untouched(outside)


def test_cve_2022_1227_names_of_processes_are_text_and_nothing_else(ground: Ground) -> None:
    """A process chooses its own name and arguments: brackets, line ends and control characters are shown as what they are."""
    source = """
        import ctypes, time
        ctypes.CDLL(None).prctl(15, b") R 1 1 1\\n\\x1b[2J", 0, 0, 0)
        print("named", flush=True)
        time.sleep(100)
    """
    program = os.path.realpath(sys.executable)
    arguments = (program, "-I", "-c", textwrap.dedent(source))
    with detached(ground, *arguments, mounts=ground.python_mounts(), upper=ground.directory / "upper") as (_, record):
        while b"\x1b" not in Path(f"/proc/{record.process_id}/stat").read_bytes():
            pass
        (row,) = read_processes(record)
        status = Path(f"/proc/{record.process_id}/status").read_text().splitlines()
    (parent,) = (int(line.split()[1]) for line in status if line.startswith("PPid:"))
    assert (row.process_id, row.parent_id, row.user_id, row.terminal) == (record.process_id, parent, 0, 0)
