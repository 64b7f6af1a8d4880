from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import pytest

from contain.build.fold import begin_stage
from contain.build.run.fold import fold_run
from contain.build.run.mounts import missing_paths, mount_ingredients, resolve_mounts, settle_targets, source_names
from contain.build.state import StageState
from contain.build.steps import RunStep
from contain.build.trees.tree import Kind, Node
from contain.dockerfile.instructions import Run
from contain.dockerfile.mounts import MountKind, RunMount, Sharing
from contain.dockerfile.parse import parse_dockerfile
from contain.errors import UsageError
from contain.oci import ImageConfig
from contain.registry.platform import parse_platform


def run_of(flags: str) -> Run:
    instruction = parse_dockerfile(f"FROM scratch\nRUN {flags} true\n", file="Dockerfile").stages[0].instructions[0]
    assert isinstance(instruction, Run)
    return instruction


def state_of(*, directory: str = "/", **variables: str) -> StageState:
    config = ImageConfig(platform=parse_platform("linux/amd64"), working_directory=directory)
    return begin_stage(config, given={}, global_arguments={}, arguments=MappingProxyType(variables))


def resolve(flags: str, state: StageState | None = None) -> tuple[RunMount, ...]:
    return resolve_mounts(state or state_of(), run_of(flags))


@pytest.mark.parametrize(
    ("flag", "target"),
    [
        ("type=tmpfs,target=/t", "/t"),
        ("type=tmpfs,target=sub/./x/../y", "/work/sub/y"),
        ("type=tmpfs,target=.", "/work"),
        ("type=tmpfs,target=../../../up", "/up"),
        ("type=tmpfs,target=/t/", "/t"),
        ("type=tmpfs,target=$PLACE/t", "/there/t"),
        ("type=secret,id=s", "/run/secrets/s"),
        ("type=secret,target=sub/token", "/work/sub/token"),
        ("type=secret,id=s,env=S", ""),
        ("type=ssh", "/run/buildkit/ssh_agent.0"),
        ("type=cache,target=c", "/work/c"),
    ],
)
def test_targets_are_absolute_and_seen_from_the_working_directory(flag: str, target: str) -> None:
    (mount,) = resolve(f"--mount={flag}", state_of(directory="/work", PLACE="/there"))
    assert mount.target == target


def test_agents_are_numbered_and_a_cache_s_id_is_its_clean_target() -> None:
    mounts = resolve("--mount=type=ssh --mount=type=ssh,target=/x --mount=type=ssh --mount=type=cache,target=/c/../d/")
    assert [mount.target for mount in mounts] == ["/run/buildkit/ssh_agent.0", "/x", "/run/buildkit/ssh_agent.2", "/d"]
    assert mounts[-1].id == "/d"


@pytest.mark.parametrize(
    "flag",
    [
        "type=tmpfs,target=/",
        "type=bind,target=.",
        "type=tmpfs,target=/proc",
        "type=tmpfs,target=/x/../proc/sys/x",
        "type=tmpfs,target=/t,from=x",
        "type=tmpfs,target=/t,source=x",
        "type=tmpfs,target=/t,id=x",
        "type=bind,target=/t,id=x",
        "type=ssh,source=x",
        "type=ssh,from=x",
        "type=secret,id=x,rw",
        "type=bind,target=/t,sharing=locked",
        "type=bind,target=/t,size=1m",
        "type=cache,target=/t,env=X",
    ],
)
def test_fields_that_mean_nothing_for_a_kind_are_refused_at_their_place(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(f"--mount={flag}")
    assert caught.value.code == "bad-mount"
    assert caught.value.span is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("type=secret,id=a", "type=secret,id=b"),
        ("type=secret,id=a", "type=secret,id=a,mode=0444"),
        ("type=secret,id=a", "type=secret,id=a,target=/x"),
        ("type=secret,id=a,env=A", "type=secret,id=a,env=B"),
        ("type=ssh", "type=ssh,id=a"),
        ("type=tmpfs,target=/a", "type=tmpfs,target=/b"),
        ("type=tmpfs,target=/a", "type=tmpfs,target=/a,size=1m"),
        ("target=/a", "target=/b"),
        ("target=/a", "target=/a,rw"),
    ],
)
def test_what_a_step_can_see_of_a_mount_is_in_the_key(one: str, other: str) -> None:
    keys = [mount_ingredients(resolve(f"--mount={flag}"), ["content"]) for flag in (one, other)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("type=secret,id=a", "type=secret,id=a,required"),
        ("type=cache,target=/a", "type=cache,target=/b,id=x,sharing=locked,mode=0700"),
        ("source=x,target=/a", "source=y,target=/a"),  # of the same content
        ("from=x,target=/a", "from=y,target=/a"),
    ],
)
def test_what_does_not_count_is_not_in_the_key(one: str, other: str) -> None:
    keys = [mount_ingredients(resolve(f"--mount={flag}"), ["content"]) for flag in (one, other)]
    assert keys[0] == keys[1]


def test_the_content_of_a_bind_mount_is_in_the_key() -> None:
    mounts = resolve("--mount=target=/a --mount=type=cache,target=/c")
    assert mount_ingredients(mounts, ["1", ""]) != mount_ingredients(mounts, ["2", ""])


def test_a_step_carries_its_mounts_and_leaves_history_as_it_is() -> None:
    _, step = fold_run(state_of(), run_of("--mount=type=cache,target=/c,sharing=private --security=insecure"))
    assert isinstance(step, RunStep)
    assert (step.mounts[0].kind, step.mounts[0].sharing, step.security) == (MountKind.CACHE, Sharing.PRIVATE, "insecure")
    assert step.created_by == "RUN /bin/sh -c true"


def test_arguments_to_the_builder_itself_are_no_variables_of_a_step() -> None:
    state = state_of(BUILDKIT_SBOM_SCAN_STAGE="true", OTHER="x")
    _, step = fold_run(state, run_of(""))
    assert isinstance(step, RunStep)
    assert "BUILDKIT_SBOM_SCAN_STAGE" not in dict(step.environment)
    assert dict(step.environment)["OTHER"] == "x"


def test_every_stage_that_a_mount_names_is_found() -> None:
    assert list(source_names(run_of("--mount=from=a,target=/1 --mount=type=cache,target=/2,from=b --mount=target=/3"))) == [
        "a",
        "b",
    ]


# -- targets in an image ----------------------------------------------------------------------------------------------------------


def lookup(path: str) -> Node | None:
    nodes = {
        "": Kind.DIRECTORY,
        "d": Kind.DIRECTORY,
        "d/f": Kind.FILE,
        "link": Kind.SYMLINK,
        "dangling": Kind.SYMLINK,
    }
    links = {"link": "d", "dangling": "/no/where"}
    return Node(path=path, kind=nodes[path], mode=0o755, link_target=links.get(path, "")) if path in nodes else None


def at(*targets: str) -> list[RunMount]:
    return [RunMount(kind=MountKind.TMPFS, target=target) for target in targets]


def settle(mounts: Sequence[RunMount], directories: Sequence[bool]) -> list[str]:
    return [mount.target for mount in settle_targets(mounts, lookup, directories)]


def test_links_of_the_image_are_followed_inside_it() -> None:
    assert settle(at("/link/x", "/dangling", "/d/f"), [True, True, False]) == ["/d/x", "/no/where", "/d/f"]


@pytest.mark.parametrize(("target", "is_directory"), [("/d/f", True), ("/d", False), ("/link", False)])
def test_a_directory_over_a_file_is_refused_and_a_file_over_a_directory(target: str, is_directory: bool) -> None:
    with pytest.raises(UsageError) as caught:
        settle(at(target), [is_directory])
    assert caught.value.code == "mount-target-kind"


def test_what_another_mount_covers_is_not_the_image_s() -> None:
    assert settle(at("/d", "/d/f"), [True, True]) == ["/d", "/d/f"]


def test_what_the_image_has_not_is_to_be_taken_away_the_deepest_first() -> None:
    assert missing_paths(at("/d/x/y", "/d/f", "/new/a", "/new/b"), lookup) == ("d/x/y", "d/x", "new/a", "new/b", "new")
    assert missing_paths([RunMount(kind=MountKind.SECRET, target="", env="S")], lookup) == ()
