"""A published port tells the container who asks: not that it is the machine itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.kernel.test_network import HOST_OUTER_ADDRESS, OUTSIDE_ADDRESS, call, make_place, serve  # noqa: F401 - fixtures
from tests.kernel.test_network_ports import ask, scene, served  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from contain.linux.network import Attachment
    from tests.kernel.test_network_ports import Scene

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]


def test_cve_2021_20199_the_source_address_of_who_comes_from_outside_is_kept(
    scene: Scene,  # noqa: F811
    served: tuple[Attachment, int],  # noqa: F811
) -> None:
    """Programs trust 127.0.0.1, and some trust the gateway: nobody from outside may appear as one of them."""
    attachment, port = served
    udp = next(row.host_port for row in attachment.ports if row.protocol == "udp")
    assert scene.outside.do(call, (HOST_OUTER_ADDRESS, port)) == OUTSIDE_ADDRESS
    assert scene.outside.do(ask, (HOST_OUTER_ADDRESS, udp)) == OUTSIDE_ADDRESS


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9"])
def test_cve_2021_20199_nobody_is_loopback_to_a_container_but_itself(
    scene: Scene,  # noqa: F811
    served: tuple[Attachment, int],  # noqa: F811
    address: str,
) -> None:
    attachment, port = served
    seen = scene.host.do(call, (address, port))
    assert not seen.startswith("127.")
    assert seen in (attachment.gateway, HOST_OUTER_ADDRESS)
