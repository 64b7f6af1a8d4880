from __future__ import annotations

import pytest

from contain.errors import UsageError
from contain.reference import parse_reference


@pytest.mark.parametrize(("text", "hint"), [("Upper", "write 'upper'"), ("a/Upper:x", "write 'a/upper:x'")])
def test_a_name_that_would_do_in_lower_case_is_offered_so(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="repository name must be lowercase") as caught:
        parse_reference(text)
    assert caught.value.remedy == hint


@pytest.mark.parametrize("text", ["Bad Name", "Bad_-_", "-X"])
def test_what_would_be_no_name_in_lower_case_either_is_not_offered(text: str) -> None:
    with pytest.raises(UsageError, match="is not a repository name") as caught:
        parse_reference(text)
    assert not caught.value.remedy
