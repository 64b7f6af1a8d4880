"""A name's past: rollback is undo, and nothing is ever taken out of the history."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from contain.errors import Conflict, NotFound
from contain.oci import Image, ImageConfig
from contain.reference import parse_reference
from contain.store import Store
from contain.store.naming import choose_rollback, fold_history

NAME = parse_reference("app:1")
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
HERE = (A, B, C)


def history(text: str) -> list[tuple[str | None, str]]:
    """``A``: named; ``-``: taken away; ``a``: rolled back to."""
    digests = {"A": A, "B": B, "C": C, "-": None}
    return [(digests[letter.upper()], "rollback" if letter.islower() else "build") for letter in text]


@pytest.mark.parametrize(
    ("past", "stack"),
    [
        ("", ""),
        ("A", "A"),
        ("AB", "AB"),
        ("AAB", "AB"),
        ("ABA", "ABA"),
        ("ABCb", "AB"),
        ("ABCba", "A"),
        ("ABCbC", "ABC"),
        ("ABCbac", "AC"),
        ("AB-", "AB-"),
        ("AB-b", "AB"),
        ("ABCabA", "ABA"),
    ],
)
def test_the_stack_of_a_history(past: str, stack: str) -> None:
    digests = [digest for digest, _ in history(stack)]
    assert list(fold_history(history(past))) == digests


@pytest.mark.parametrize(
    ("past", "target"),
    [
        ("AB", A),
        ("ABC", B),
        ("ABCb", A),
        ("ABCbC", B),
        ("AB-", B),
        ("-", None),
        ("A", None),
        ("ABCba", None),
        ("A-A", None),
    ],
)
def test_again_goes_further_back_and_what_is_new_lies_on_top(past: str, target: str | None) -> None:
    if target is None:
        with pytest.raises(NotFound, match="no other image before") as caught:
            choose_rollback("app:1", history(past), present=HERE, to=None)
        assert caught.value.code == "no-earlier-image"
    else:
        assert choose_rollback("app:1", history(past), present=HERE, to=None) == target


def test_a_name_that_never_was_is_said_to_be_none() -> None:
    with pytest.raises(NotFound, match="No such image: app:1, now or before"):
        choose_rollback("app:1", [], present=HERE, to=None)


def test_any_image_of_the_history_can_be_named_forward_too() -> None:
    past = history("ABCba")
    assert choose_rollback("app:1", past, present=HERE, to="cccc") == C
    assert choose_rollback("app:1", past, present=HERE, to=B) == B
    with pytest.raises(NotFound, match="never pointed"):
        choose_rollback("app:1", past, present=HERE, to="dd")
    with pytest.raises(NotFound, match="never pointed"):
        choose_rollback("app:1", past, present=HERE, to="")
    with pytest.raises(Conflict, match="points at"):
        choose_rollback("app:1", past, present=HERE, to="aaaa")
    with pytest.raises(Conflict, match="2 images"):
        choose_rollback("app:1", [(A, "build"), ("sha256:" + "ab" * 32, "build")], present=HERE, to="a")


def test_an_image_that_is_gone_is_not_skipped_silently() -> None:
    with pytest.raises(NotFound, match="not here any more") as caught:
        choose_rollback("app:1", history("ABC"), present=(A, C), to=None)
    assert caught.value.code == "rolled-back-image-gone"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


def images(store: Store, count: int) -> list[Image]:
    made = [store.put_image(ImageConfig(author=str(number)), []) for number in range(count)]
    for number, image in enumerate(made):
        store.tag(NAME, image.digest, source=f"source {number}")
    return made


def test_rollback_gives_back_the_image_and_where_it_came_from(store: Store) -> None:
    first, second, third = images(store, 3)
    assert store.rollback(NAME) == (third.digest, second.digest)
    assert store.name_source(NAME) == (second.digest, "source 1")
    assert store.rollback(NAME) == (second.digest, first.digest)
    assert store.rollback(NAME, to=third.digest[7:20]) == (first.digest, third.digest)
    assert [(record.digest, record.source) for record in store.name_history(NAME)][:3] == [
        (third.digest, "rollback"),
        (first.digest, "rollback"),
        (second.digest, "rollback"),
    ]


def test_a_name_that_was_taken_away_comes_back(store: Store) -> None:
    [image] = images(store, 1)
    store.untag(NAME)
    assert store.rollback(NAME) == (None, image.digest)
    assert store.find_image("app:1") == image


def test_what_a_name_pointed_at_stays_until_prune_which_says_so(store: Store) -> None:
    first, second = images(store, 2)
    assert store.image(first.digest) == first
    report = store.prune(grace_seconds=0)
    assert report.images == (first.digest,)
    assert report.former_names == ((first.digest, "docker.io/library/app:1"),)
    assert [record.present for record in store.name_history(NAME)] == [True, False]
    with pytest.raises(NotFound, match="not here any more"):
        store.rollback(NAME)
    assert store.find_image("app:1") == second


def test_an_image_that_is_removed_with_its_names_leaves_them_in_the_history(store: Store) -> None:
    first, second = images(store, 2)
    store.remove_image(second.digest)
    assert [record.digest for record in store.name_history(NAME)] == [None, second.digest, first.digest]
    with pytest.raises(NotFound, match="not here any more"):
        store.rollback(NAME)
    assert store.rollback(NAME, to=first.digest) == (None, first.digest)


def test_rollbacks_at_once_are_one_after_the_other(store: Store) -> None:
    made = images(store, 9)
    results: list[tuple[str | None, str]] = []
    threads = [Thread(target=lambda: results.append(Store.open(store.home).rollback(NAME))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert store.find_image("app:1") == made[2]
    assert {after for _, after in results} == {image.digest for image in made[2:8]}
