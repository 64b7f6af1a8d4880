"""What a user sees for a mistake in a Dockerfile: ``errors/<case>/Dockerfile`` must give exactly ``errors/<case>/error``."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.dockerfile import parse_dockerfile
from contain.errors import UsageError

CASES = sorted((Path(__file__).parent / "errors").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_shown_with_its_place_and_a_remedy(case: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dockerfile((case / "Dockerfile").read_bytes().decode())
    assert f"{caught.value.code}\n{caught.value}\n" == (case / "error").read_text()
