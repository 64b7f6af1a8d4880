"""What becomes of a container's writing on which ground, and what is said about it."""

from __future__ import annotations

import itertools
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.container.storage import (
    Ground,
    Storage,
    choose_kept,
    choose_thrown_away,
    describe_reason,
    fill_root,
    parse_storage,
    probe_ground,
    render_warning,
)
from contain.errors import UsageError
from contain.spec import ContainerSpec, Identity, Limits, Network


def spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "container_id": "c" * 64,
        "name": "web",
        "image_digest": "",
        "image_name": "app",
        "layers": (),
        "upper": None,
        "arguments": ("true",),
        "environment": (),
        "working_directory": PurePosixPath("/"),
        "identity": Identity(),
        "hostname": "box",
        "mounts": (),
        "network": Network.NONE,
        "limits": Limits(),
        "read_only": False,
        "terminal": False,
        "stop_signal": 15,
        "capabilities": frozenset(),
    }
    return ContainerSpec(**{**values, **changes})


DISK = Ground(kind="")
COVERED = Ground(kind="overlay", writable=False)
OLD = Ground(kind="overlay", writable=False, memory=False)
BARE = Ground(kind="ext4", kernel=False, writable=False)
OVERLAY, MEMORY, COPY = Storage.OVERLAY, Storage.MEMORY, Storage.COPY


@pytest.mark.parametrize(
    ("ground", "kept", "thrown_away"),
    [(DISK, OVERLAY, OVERLAY), (COVERED, COPY, MEMORY), (OLD, COPY, COPY), (BARE, COPY, COPY)],
)
def test_an_overlay_is_taken_where_there_is_one_then_memory_then_a_copy(
    ground: Ground, kept: Storage, thrown_away: Storage
) -> None:
    assert choose_kept(None, ground) is kept
    assert choose_thrown_away(None, ground) is thrown_away


@pytest.mark.parametrize("ground", [DISK, COVERED, OLD, BARE])
def test_who_asks_for_copies_gets_copies_of_all(ground: Ground) -> None:
    assert choose_kept(COPY, ground) is choose_thrown_away(COPY, ground) is COPY


def test_who_asks_for_an_overlay_gets_one_or_the_kernels_refusal() -> None:
    assert [choose_kept(OVERLAY, ground) for ground in (DISK, COVERED, BARE)] == [OVERLAY] * 3
    assert [choose_thrown_away(OVERLAY, ground) for ground in (DISK, COVERED, OLD, BARE)] == [OVERLAY, MEMORY, OVERLAY, OVERLAY]


@pytest.mark.parametrize(("asked", "ground"), list(itertools.product((None, OVERLAY, COPY), (DISK, COVERED, OLD, BARE))))
def test_an_overlay_of_marks_that_the_kernel_does_not_know_is_never_made(asked: Storage | None, ground: Ground) -> None:
    assert choose_kept(asked, ground, stand_ins=True) is choose_thrown_away(asked, ground, stand_ins=True) is COPY


def test_the_variable_is_read_and_nonsense_in_it_is_named() -> None:
    assert parse_storage({}) is parse_storage({"CONTAIN_STORAGE": ""}) is None
    assert parse_storage({"CONTAIN_STORAGE": "copy"}) is COPY
    assert parse_storage({"CONTAIN_STORAGE": "overlay"}) is OVERLAY
    for nonsense in ("vfs", "Copy", "memory", " "):
        with pytest.raises(UsageError, match="is neither 'overlay' nor 'copy'") as caught:
            parse_storage({"CONTAIN_STORAGE": nonsense})
        assert caught.value.code == "bad-setting"


def test_the_warning_names_what_why_what_it_costs_and_what_helps() -> None:
    text = render_warning(None, COVERED)
    for words in (
        "storage by copying",
        "the store's file system, overlay",
        "time and disk",
        "set CONTAIN_HOME",
        "docs/rootless.md",
    ):
        assert words in text
    assert "leave out CONTAIN_STORAGE=copy" in render_warning(COPY, DISK)
    assert "kernel has no overlay" in describe_reason(None, BARE)
    assert "removes files with marks" in describe_reason(None, COVERED, stand_ins=True)


def test_a_root_is_whole_or_not_there(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "file").write_text("whole")
    made = spec(layers=(layer,), upper=tmp_path / "place/upper", copied=True)
    (tmp_path / "place").mkdir()
    fill_root(made, lasting=False)
    assert (tmp_path / "place/upper/file").read_text() == "whole"
    with pytest.raises(OSError, match="missing"):
        fill_root(spec(layers=(layer, tmp_path / "missing"), upper=tmp_path / "place/other", copied=True), lasting=True)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["upper"]


def test_a_place_that_is_not_there_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    assert probe_ground(tmp_path / "not" / "there") == probe_ground(tmp_path)
    assert not (tmp_path / "not").exists()
