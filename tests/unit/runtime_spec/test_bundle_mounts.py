"""Options of a bundle's mounts, as what the kernel is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from contain.errors import UsageError
from contain.runtime_spec.mounts import PROPAGATIONS, BundleMount, parse_mount
from contain.runtime_spec.reading import Table


def mount(*options: str, **members: Any) -> BundleMount:
    return parse_mount(Table({"destination": "/x", "type": "tmpfs", "options": list(options), **members}, "mounts[0]"))


def test_words_become_attributes_and_the_rest_goes_to_the_file_system() -> None:
    found = mount("nosuid", "noexec", "size=64k", "mode=755", "ro", "nr_inodes=5", "huge")
    assert found.set_attributes == 0x1 | 0x2 | 0x8
    assert found.data == (("size", "64k"), ("mode", "755"), ("nr_inodes", "5"), ("huge", ""))


def test_the_last_of_two_opposite_words_wins() -> None:
    assert mount("ro", "rw").set_attributes == 0
    assert mount("ro", "rw").clear_attributes == 0x1
    assert mount("rw", "ro").set_attributes == 0x1
    assert mount("rw", "ro").clear_attributes == 0


def test_of_the_access_times_one_is_chosen_and_the_whole_field_is_cleared() -> None:
    found = mount("noatime", "strictatime")
    assert (found.set_attributes, found.clear_attributes & 0x70) == (0x20, 0x70)


def test_recursive_words_are_for_the_mounts_below() -> None:
    found = mount("rbind", "rro", "nosuid", source="/host", type="none")
    assert (found.bind, found.recursive, found.tree_set, found.set_attributes) == (True, True, 0x1, 0x2)


def test_a_bind_mount_takes_no_words_for_a_file_system() -> None:
    assert mount("bind", "size=5", source="/host", type="none").data == ()


def test_propagation_may_be_said_more_than_once() -> None:
    assert mount("rprivate", "shared").propagation == (PROPAGATIONS["rprivate"], PROPAGATIONS["shared"])


def test_a_relative_destination_begins_at_the_root() -> None:
    assert mount(destination="data").target == "/data"


def test_copying_up_belongs_to_memory_file_systems() -> None:
    assert mount("tmpcopyup").copy_up
    with pytest.raises(UsageError, match="tmpcopyup"):
        mount("bind", "tmpcopyup", source="/host", type="none")
