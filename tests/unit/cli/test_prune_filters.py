"""``--filter`` of the prune commands: what goes, and what is refused."""

from __future__ import annotations

import pytest

from contain.cli.pruning import PruneFilters, parse_prune_filters
from contain.errors import UsageError

ALL = ("dangling", "label", "label!", "until")


def parse(*values: str) -> PruneFilters:
    return parse_prune_filters(values, now=10_000.0, keys=ALL)


def test_without_filters_everything_goes() -> None:
    assert parse().passes({}, 1e12)
    assert parse().dangling is None


def test_until_spares_what_was_made_later() -> None:
    filters = parse("until=1h")
    assert filters.passes({}, 6400)
    assert not filters.passes({}, 6401)
    assert parse("until=500").passes({}, 500)
    assert not parse("until=1970-01-01T00:10:00Z").passes({}, 601)


def test_all_labels_are_needed_and_none_of_the_unwanted_may_be_there() -> None:
    filters = parse("label=a", "label=b=1", "label!=keep")
    assert filters.passes({"a": "", "b": "1"}, 0)
    assert not filters.passes({"a": "", "b": "2"}, 0)
    assert not filters.passes({"b": "1"}, 0)
    assert not filters.passes({"a": "", "b": "1", "keep": "yes"}, 0)


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_dangling_is_read_as_docker_reads_it(text: str, expected: bool) -> None:
    assert parse(f"dangling={text}").dangling is expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["colour=red"], "invalid filter 'colour'"),
        (["label"], "bad format of filter 'label'"),
        (["label="], "bad format of filter 'label='"),
        (["until="], "failed to parse value as time or duration: ''"),
        (["until=soon"], "failed to parse value as time or duration: 'soon'"),
        (["until=1h", "until=2h"], "more than one until filter specified"),
        (["dangling=perhaps"], "invalid filter 'dangling=perhaps'"),
    ],
)
def test_what_means_nothing_is_refused(values: list[str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(*values)
    assert words in refused.value.message


def test_only_images_dangle() -> None:
    with pytest.raises(UsageError, match="invalid filter 'dangling'"):
        parse_prune_filters(["dangling=true"], now=0.0)
