"""A lock is read from layers: which step installed what, which files it brought; and no secret gets into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from contain.build.fold import begin_stage, fold
from contain.build.graph import plan_stage, resolve_build
from contain.build.lock.capture import build_inputs, capture_lock, check_lock, locked_host
from contain.build.lock.constraints import Constraints
from contain.build.lock.file import render_lock
from contain.build.lock.outline import layer_files
from contain.build.record.tracing import Trace, public_address, step_text
from contain.build.record.values import BuildRecord, BuiltBase, BuiltStage, BuiltStep, RemoteSource
from contain.build.request import BuildHost, BuildRequest
from contain.build.run.perform import run_environment, write_run_files
from contain.build.steps import RunStep
from contain.dockerfile.parse import parse_dockerfile
from contain.errors import IntegrityError
from contain.oci import Descriptor, Image, ImageConfig, Platform
from contain.oci.image import MEDIA_LAYER
from contain.store import Store


def stanza(name: str, version: str) -> str:
    return f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "home") as opened:
        yield opened


def make_layer(store: Store, files: dict[str, str]) -> str:
    with store.scratch("test") as work:
        upper = work / "upper"
        upper.mkdir()
        for name, text in files.items():
            place = upper / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        made = store.commit_layer(upper, lower=(), epoch_seconds=0)
    assert made is not None
    return made.diff_id


def make_image(store: Store, layers: Sequence[str], user: str = "") -> Image:
    descriptors = [Descriptor(media_type=MEDIA_LAYER, digest=layer, size=store.layer_size(layer)) for layer in layers]
    return store.put_image(ImageConfig(diff_ids=tuple(layers), user=user), descriptors)


def make_build(store: Store, *, curl: str = "7.88", app: str = "1", machine: str = "same") -> tuple[BuildRecord, Image]:
    base_layer = make_layer(store, {"/var/lib/dpkg/status": stanza("libc6", "2.36") + stanza("nano", "7")})
    base = make_image(store, [base_layer])
    apt = make_layer(
        store,
        {
            "/var/lib/dpkg/status": stanza("libc6", "2.36") + stanza("curl", curl),
            "/usr/bin/curl": curl,
            "/etc/machine": machine,
        },
    )
    pip = make_layer(store, {"/usr/lib/python3/site-packages/flask-3.0.dist-info/METADATA": "Name: flask\nVersion: 3.0\n\n"})
    copy = make_layer(store, {"/app/main.py": app, "/app/other.py": "same"})
    record = BuildRecord(
        dockerfile="Dockerfile",
        dockerfile_digest="sha256:" + "0" * 64,
        target="",
        platform="linux/amd64",
        epoch_seconds=5,
        build_args={"VERSION": "1", "API_TOKEN": "hunter2"},
        options={},
        bases=(BuiltBase(name="debian:12", digest=base.digest, platform="linux/amd64", source="test"),),
        remotes=(RemoteSource(uri="https://example.org/x", digest="sha256:" + "1" * 64),),
        stages=(
            BuiltStage(name="tools", base="debian:12", steps=(BuiltStep(text="RUN apt", layer=apt, networked=True),)),
            BuiltStage(
                name="app",
                base="stage tools",
                steps=(
                    BuiltStep(text="ENV A=1", layer=None),
                    BuiltStep(text="RUN pip", layer=pip, networked=True),
                    BuiltStep(text="COPY . /app", layer=copy, from_context=True),
                ),
            ),
        ),
    )
    return record, make_image(store, [base_layer, apt, pip, copy])


def test_a_lock_says_which_step_installed_and_removed_what(store: Store) -> None:
    lock = capture_lock(*make_build(store), store)
    assert {name: dict(rows) for name, rows in lock.bases["debian:12"].packages.items()} == {
        "dpkg": {"libc6": "2.36", "nano": "7"}
    }
    (apt,) = lock.stages[0].steps
    assert dict(apt.packages["dpkg"]) == {"curl": "7.88"}
    assert dict(apt.removed["dpkg"]) == {"nano": "7"}
    environment, pip, copy = lock.stages[1].steps
    assert (environment.layer, dict(environment.packages)) == ("", {})
    assert {name: dict(rows) for name, rows in pip.packages.items()} == {"python": {"flask": "3.0"}}
    assert set(copy.files) == {"/app/main.py", "/app/other.py"}


def test_no_secret_is_in_a_lock_or_in_the_inputs(store: Store) -> None:
    record, image = make_build(store)
    assert "hunter2" not in render_lock(capture_lock(record, image, store))


def test_the_same_build_in_another_store_gives_the_same_lock(store: Store, tmp_path: Path) -> None:
    first = render_lock(capture_lock(*make_build(store), store))
    with Store.open(tmp_path / "other") as other:
        assert render_lock(capture_lock(*make_build(other), other)) == first


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"curl": "7.99"}, ["dpkg package curl"]),
        ({"app": "2"}, ["file /app/main.py"]),
        ({"machine": "another"}, ["file /etc/machine"]),
        ({"curl": "7.99", "app": "2"}, ["dpkg package curl", "file /app/main.py"]),
    ],
)
def test_what_moved_is_named_and_nothing_else(store: Store, changes: Any, expected: list[str]) -> None:
    lock = capture_lock(*make_build(store), store)
    record, image = make_build(store, **changes)
    with pytest.raises(IntegrityError) as caught:
        check_lock(lock, record, image, store)
    assert caught.value.code == "lock-moved"
    rows = [line.strip().split("   ")[0] for line in str(caught.value).splitlines() if line.startswith("  ")][1:]
    assert rows == expected


def test_the_locked_image_passes(store: Store) -> None:
    record, image = make_build(store)
    check_lock(capture_lock(record, image, store), record, image, store)


def test_another_configuration_alone_is_named(store: Store) -> None:
    record, image = make_build(store)
    lock = capture_lock(record, image, store)
    other = make_image(store, image.config.diff_ids, user="worker")
    with pytest.raises(IntegrityError, match="the image's configuration"):
        check_lock(lock, record, other, store)


def test_a_layer_that_was_never_brought_here_is_no_missing_package(store: Store) -> None:
    record, image = make_build(store)
    lock = capture_lock(record, image, store)
    elsewhere = BuiltStep(text="RUN apt", layer="sha256:" + "e" * 64)
    changed = record.stages[0].__class__(name="tools", base="debian:12", steps=(elsewhere,))
    away = record.__class__(
        **{name: getattr(record, name) for name in record.__dataclass_fields__ if name != "stages"},
        stages=(changed, record.stages[1]),
    )
    with pytest.raises(IntegrityError) as caught:
        check_lock(lock, away, make_image(store, image.config.diff_ids, user="x"), store)
    assert "built bytes differ at layer 1" in str(caught.value)
    assert "curl" not in str(caught.value)


def test_the_locks_time_is_used_unless_another_is_asked_for(store: Store) -> None:
    lock = capture_lock(*make_build(store), store)
    host = BuildHost(platform=Platform(), epoch_seconds=7)
    assert locked_host(host, lock, build_args={}, environ={}).epoch_seconds == 5
    assert locked_host(host, lock, build_args={"SOURCE_DATE_EPOCH": "7"}, environ={}).epoch_seconds == 7
    assert locked_host(host, lock, build_args={}, environ={"SOURCE_DATE_EPOCH": "7"}).epoch_seconds == 7


def test_the_inputs_name_bases_sources_and_steps_with_a_network(store: Store) -> None:
    inputs = build_inputs(make_build(store)[0], lock=None)
    assert [(each.kind, each.uri) for each in inputs.dependencies] == [
        ("base", "pkg:docker/debian@12?platform=linux%2Famd64"),
        ("url", "https://example.org/x"),
    ]
    assert inputs.networked == ("tools: RUN apt", "app: RUN pip")


def test_the_files_of_a_layer_do_not_depend_on_times(store: Store, tmp_path: Path) -> None:
    layer = make_layer(store, {"/a": "1"})
    before = layer_files(store.layer_tree(layer), digests=None)
    assert set(before) == {"/", "/a"}
    assert layer_files(store.layer_tree(make_layer(store, {"/a": "2"})), digests=None)["/a"] != before["/a"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:password@example.org/x", "https://***@example.org/x"),
        ("https://example.org/x?token=abc&page=2#part", "https://example.org/x?token=hidden&page=2"),
        ("https://example.org/x?sig=abc", "https://example.org/x?sig=hidden"),
        ("https://example.org/x", "https://example.org/x"),
    ],
)
def test_an_address_is_written_down_without_its_secrets(url: str, shown: str) -> None:
    assert public_address(url) == shown


def test_the_text_of_a_step_is_one_line_with_its_heredocs_and_of_bounded_length() -> None:
    def text(dockerfile: str) -> str:
        return step_text(parse_dockerfile(dockerfile, file="Dockerfile").stages[0].instructions[0])

    assert text("FROM a\nRUN one \\\n  two\n") == "RUN one two"
    assert text("FROM a\nRUN <<E\none\nE\n") != text("FROM a\nRUN <<E\ntwo\nE\n")
    assert text(f"FROM a\nRUN {'x' * 900}1\n") != text(f"FROM a\nRUN {'x' * 900}2\n")
    assert len(text(f"FROM a\nRUN {'x' * 900}1\n")) <= 300


def run_step(**environment: str) -> RunStep:
    instruction = parse_dockerfile("FROM a\nRUN x\n", file="Dockerfile").stages[0].instructions[0]
    return RunStep(
        instruction=instruction,
        created_by="RUN x",
        arguments=("x",),
        script=None,
        environment=tuple(environment.items()),
        network="default",
        security="sandbox",
        mounts=(),
        user="",
        working_directory="/",
    )


def test_a_step_without_constraints_sees_nothing_of_a_lock(tmp_path: Path) -> None:
    host = BuildHost(platform=Platform())
    files = write_run_files(run_step(), host, tmp_path)
    assert (files.apt, files.preferences, files.pip) == (None, None, None)
    names = dict(run_environment(run_step(), host, proxies_given={}, home="/root"))
    assert not {"PIP_CONSTRAINT", "UV_CONSTRAINT", "APT_CONFIG"} & set(names)


def test_the_images_own_preferences_stay_and_the_dockerfiles_own_constraint_wins(tmp_path: Path) -> None:
    host = BuildHost(platform=Platform())
    constraints = Constraints(pip="flask==3.0\n", apt="Package: curl\nPin: version 1\nPin-Priority: 1001\n\n")
    files = write_run_files(run_step(), host, tmp_path, constraints=constraints, preferences="Package: own\n")
    assert files.preferences is not None
    assert files.preferences.read_text().endswith("\n\nPackage: own\n")
    assert files.apt is not None
    assert json.loads(files.apt.read_text().split()[1].rstrip(";")) == "/dev/contain/apt-preferences"
    seen = dict(
        run_environment(run_step(PIP_CONSTRAINT="/mine"), host, proxies_given={}, home="/root", constraints=constraints)
    )
    assert (seen["PIP_CONSTRAINT"], seen["UV_CONSTRAINT"]) == ("/mine", "/dev/contain/pip-constraints.txt")


@pytest.mark.parametrize(
    ("instruction", "network", "networked", "from_context"),
    [
        ("RUN x", "default", True, False),
        ("RUN x", "none", False, False),
        ("RUN --network=none x", "default", False, False),
        ("COPY a /a", "default", False, True),
        ("COPY --from=one a /a", "default", False, False),
        ("ADD https://example.org/x /x", "default", False, False),
        ("ADD a https://example.org/x /x/", "default", False, True),
        ("ENV A=1", "default", False, False),
    ],
)
def test_a_record_says_which_steps_had_a_network_and_which_took_files_of_the_context(
    instruction: str, network: str, networked: bool, from_context: bool
) -> None:
    dockerfile = parse_dockerfile(f"FROM scratch AS one\nFROM scratch\n{instruction}\n", file="Dockerfile")
    graph = resolve_build(dockerfile, target=None, build_args={}, platform=Platform(), host_platform=Platform())
    plan = plan_stage(graph, 1)
    state = begin_stage(ImageConfig(), given={}, global_arguments={}, arguments={}, escape="\\")
    _, step = fold(state, plan.stage.instructions[0])
    trace = Trace(graph, network=network)
    trace.begin(plan)
    trace.add(plan, step, None)
    record = trace.record(BuildRequest(context=None), dockerfile="Dockerfile", dockerfile_digest="", epoch_seconds=0, found={})
    (stage,) = record.stages
    assert [(each.networked, each.from_context, each.text) for each in stage.steps] == [(networked, from_context, instruction)]
