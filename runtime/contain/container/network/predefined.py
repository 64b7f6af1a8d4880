"""The networks that are always there. Pure, and light: whoever starts a container reads it."""

from __future__ import annotations

DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
PREDEFINED = tuple(DRIVERS)
PREDEFINED_IDS = {
    "bridge": "d645a71435905ab65b48db8adb374ebba886db697d6b58e606d633744e0f4d38",
    "host": "70edd1d099439135a2b072be1f333dd3657cb56a271bb1d230394398e2191890",
    "none": "0e3e91adc978429187f2d0f34a4a5574a3d94123c4bc750535faf02a0491ff8c",
}
"""The same everywhere: `network_digest` of their names, which need not be computed at each start."""


def network_digest(text: str) -> str:
    """64 digits that follow from a text: the id of a network that is always there, or of a container's end of a network."""
    import hashlib

    return hashlib.sha256(f"contain network {text}".encode()).hexdigest()
