"""Base images made from a Debian archive: what ``FROM debian:bookworm`` gets on a machine that reaches a Debian mirror.

``provide`` does it; beside it stand the parts it is made of: which release a tag means (``suites``), which mirror
(``mirror``), what the archive's signature covers (``release``), which packages (``packages``), how they come here
(``download``), what is inside one (``debfile``), and what is done with them in a container (``recipe``).
Needs no Debian tool of the host. Never takes a byte that the archive's signature does not cover.
"""

from __future__ import annotations

from contain.build.debian.provide import provide_debian_base, provide_debian_state

__all__ = ["provide_debian_base", "provide_debian_state"]
