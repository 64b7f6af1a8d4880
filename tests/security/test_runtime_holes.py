"""More of the known ways out of containers of other runtimes, tried on ours: devices, terminals, descriptors, what is shipped."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from contain.container.execute import ExecRequest, execute
from contain.spec import Bind, Identity
from tests.security.attacks import WORKER, detached, output_of, untouched

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
            arguments=("sh", "-c", "tty; echo taken; cat <&0"),
            environment=(("PATH", "/bin:/usr/bin"),),
            working_directory="/",
            identity=WORKER,
            terminal=True,
        )
        read, write = os.pipe2(os.O_CLOEXEC)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            execute(record, request, stdin=null, stdout=write, stderr=null)
        finally:
            os.close(write)
            os.close(null)
        with os.fdopen(read, "rb") as output:
            said = output.read()
        assert output_of(record, "cat", "/secret") == "secret\n"
    assert b"/dev/pts/" in said
    assert b"secret" not in said


# -- 11 ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [Identity(), WORKER])
def test_cve_2022_24769_nothing_is_inheritable_or_ambient(ground: Ground, identity: Identity) -> None:
    text = ground.run("cat", "/proc/self/status", identity=identity).out
    rows = {line.split(":")[0]: line.split(":")[1].strip() for line in text.splitlines() if line.startswith("Cap")}
    own = "00000000a80425fb" if identity.user_id == 0 else "0" * 16
    assert rows == {"CapInh": "0" * 16, "CapAmb": "0" * 16, "CapPrm": own, "CapEff": own, "CapBnd": "00000000a80425fb"}
