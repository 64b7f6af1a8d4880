"""``--userns``: what it means, what is refused, and what is put within reach of a container with ids of its own."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.container.lifecycle.records import describe_spec
from contain.container.plan import Workspace, plan_launch
from contain.container.request.idmapping import check_identity, parse_user_namespace, render_user_namespace
from contain.container.run import device_rules
from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.linux.devices import DEFAULT_DEVICE_RULES
from contain.operations import EnterStage, MountBind, MountFilesystem, MountLayers, MountRoot, SetSysctl, StageHostPath
from contain.spec import Bind, ContainerSpec, Identity, IdMapping, Limits, Network, UserNamespace, Volume

_AUTO = UserNamespace(mapping=IdMapping.AUTO)


@pytest.mark.parametrize("text", ["", "private"])
def test_by_default_ids_are_mapped_to_themselves(text: str) -> None:
    assert parse_user_namespace(text) == UserNamespace(mapping=IdMapping.PRIVATE)


def test_auto_and_host() -> None:
    assert parse_user_namespace("host").mapping is IdMapping.HOST
    assert parse_user_namespace("auto") == UserNamespace(mapping=IdMapping.AUTO, size=65536)
    assert parse_user_namespace("auto:size=1024") == UserNamespace(mapping=IdMapping.AUTO, size=1024)


@pytest.mark.parametrize("text", ["", "host", "auto:size=1024"])
def test_inspect_says_what_was_asked(text: str) -> None:
    spec = _spec(user_namespace=parse_user_namespace(text))
    assert render_user_namespace(describe_spec(spec)) == text
    assert render_user_namespace({}) == ""  # a record of an older version


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "Host",
        "auto:",
        "auto:size",
        "auto:size=",
        "auto:size=0",
        "auto:size=-1",
        "auto:size=1e3",
        "auto:size=٣",
        "auto:foo=1",
        "auto:size=99999999999999999999",
        "host:x",
        "private:x",
        ":x",
        "auto,size=1",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_user_namespace(text)
    assert caught.value.code == "bad-userns"


@pytest.mark.parametrize(
    "text", ["keep-id", "keep-id:uid=1", "nomap", "container:x", "ns:/proc/1/ns/user", "auto:uidmapping=0:1:1"]
)
def test_what_podman_has_more_is_refused_by_name(text: str) -> None:
    with pytest.raises(NotSupported) as caught:
        parse_user_namespace(text)
    assert caught.value.code == "userns-not-supported"
    assert text.split(":", maxsplit=1)[0] in str(caught.value)


def test_a_user_must_fit_into_the_containers_ids() -> None:
    small = UserNamespace(mapping=IdMapping.AUTO, size=1000)
    check_identity(small, Identity(user_id=999, group_id=999, groups=(0, 999)))
    check_identity(UserNamespace(), Identity(user_id=5_000_000))
    for identity in (Identity(user_id=1000), Identity(group_id=1000), Identity(groups=(1, 2000))):
        with pytest.raises(UsageError, match="auto:size="):
            check_identity(small, identity)


def _spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "container_id": "1" * 64,
        "name": "x",
        "image_digest": "",
        "image_name": "",
        "layers": (Path("/store/layers/one/tree"), Path("/store/layers/two/tree")),
        "upper": Path("/store/containers/x/upper"),
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
        "capabilities": DEFAULT_CAPABILITIES,
        "user_namespace": _AUTO,
    }
    return ContainerSpec(**{**values, **changes})


_WORKSPACE = Workspace(directory=Path("/run/work/x"), skeleton=Path("/run/work/x/skeleton"))


def _operations(spec: ContainerSpec, workspace: Workspace = _WORKSPACE) -> tuple[list[Any], list[Any]]:
    plan = plan_launch(spec, workspace, (), b"")
    return list(plan.outside), list(plan.root)


def test_layers_upper_and_volumes_are_seen_with_translated_owners_and_host_paths_are_not() -> None:
    volume = Volume(name="v", source=Path("/store/volumes/v/_data"), target=PurePosixPath("/v"))
    bind = Bind(source=Path("/home/somebody/here"), target=PurePosixPath("/b"), beneath=Path("/home/somebody"))
    outside, root = _operations(_spec(mounts=(volume, bind)))
    staged = {each.source: each.translated for each in outside if isinstance(each, StageHostPath)}
    assert staged == {
        "/store/layers/one/tree": True,
        "/store/layers/two/tree": True,
        "/store/containers/x": True,
        "/store/volumes/v/_data": True,
        "/home/somebody/here": False,
    }
    beneath = [each.beneath for each in outside if isinstance(each, StageHostPath) and not each.translated]
    assert beneath == ["/home/somebody"]
    assert not [each for each in root if isinstance(each, MountBind) and each.beneath]
    assert isinstance(outside[-1], EnterStage)


def test_inside_nothing_of_the_store_is_named_by_its_host_path() -> None:
    volume = Volume(name="v", source=Path("/store/volumes/v/_data"), target=PurePosixPath("/v"))
    _, root = _operations(_spec(mounts=(volume,)))
    mounted = next(each for each in root if isinstance(each, MountRoot))
    names = [*mounted.lower, mounted.upper, mounted.work]
    names += [each.source for each in root if isinstance(each, MountBind) and not each.source.startswith("/dev/")]
    assert not [name for name in names if name.startswith("/")]
    assert mounted.lower[-1] == "skeleton"
    assert mounted.upper.endswith("/upper")
    assert mounted.work == mounted.upper + ".work"
    assert mounted.upper.split("/")[0] != mounted.lower[0]


def test_the_machines_own_root_is_translated_below_the_overlay_that_stands_on_it() -> None:
    """An overlay's owners cannot be translated, only those of what it is made of."""
    outside, root = _operations(_spec(layers=(Path("/"), Path("/store/layers/one/tree"))))
    view = next(index for index, each in enumerate(outside) if isinstance(each, StageHostPath) and each.source == "/")
    over = next(index for index, each in enumerate(outside) if isinstance(each, MountLayers))
    assert view < over
    staged = [each.source for each in outside if isinstance(each, StageHostPath)]
    assert outside[over].path not in staged
    assert str(_WORKSPACE.skeleton) in staged
    mounted = next(each for each in root if isinstance(each, MountRoot))
    assert mounted.lower[1] == "covered"


def test_with_few_ids_the_terminals_group_and_the_ping_groups_are_those_that_there_are() -> None:
    _, root = _operations(_spec(user_namespace=UserNamespace(mapping=IdMapping.AUTO, size=5)))
    terminals = next(each for each in root if isinstance(each, MountFilesystem) and each.kind == "devpts")
    assert "gid" not in dict(terminals.options)
    assert SetSysctl(name="net/ipv4/ping_group_range", value="0 4") in root
    _, root = _operations(_spec())
    terminals = next(each for each in root if isinstance(each, MountFilesystem) and each.kind == "devpts")
    assert dict(terminals.options)["gid"] == "5"


def test_without_a_user_namespace_devices_are_forbidden_by_other_means() -> None:
    host = _spec(user_namespace=UserNamespace(mapping=IdMapping.HOST))
    assert device_rules(host) == DEFAULT_DEVICE_RULES
    outside, root = _operations(host)
    assert outside == []
    assert next(each for each in root if isinstance(each, MountRoot)).no_devices
    private = _spec(user_namespace=UserNamespace())
    assert device_rules(private) is None
    assert not next(each for each in _operations(private)[1] if isinstance(each, MountRoot)).no_devices
