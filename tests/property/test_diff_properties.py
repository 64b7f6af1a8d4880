from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contain.environment import (
    Environment,
    FailureEvidence,
    FileFact,
    Identity,
    Package,
    compare,
    dump_environment,
    explain,
    load_environment,
    render_json,
    render_terminal,
)
from contain.environment.compare import _left_out
from contain.environment.difference import EnvironmentDiff
from contain.environment.facts import FACT_DIMENSIONS, MANAGERS, UNREADABLE, frozen
from contain.errors import IntegrityError, UsageError

QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.sampled_from(["a", "b", "LANG", "TZ", "HOSTNAME", "API_TOKEN", "x y", "p\udce9", "\x1b"])
values = st.one_of(
    st.sampled_from(["", "1", "2", "C.UTF-8"]), st.lists(st.sampled_from(["1", "2", "3"]), max_size=3).map(tuple)
)
packages = st.lists(
    st.builds(Package, version=st.sampled_from(["1", "2"]), place=st.sampled_from(["/a", "/b"])), min_size=1, max_size=2
).map(tuple)
paths = st.lists(
    st.sampled_from(["etc", "opt", "a", "b.pyc", "__pycache__", "passwd", "tmp", "usr"]), min_size=1, max_size=4
).map(lambda parts: "/" + "/".join(parts))
files = st.builds(
    FileFact,
    kind=st.sampled_from(["file", "directory", "symlink"]),
    mode=st.sampled_from([0o644, 0o755]),
    uid=st.sampled_from([0, 1]),
    gid=st.just(0),
    digest=st.sampled_from(["sha256:1", "sha256:2", UNREADABLE]),
    target=st.sampled_from(["", "x"]),
    package=st.sampled_from(["", "dpkg:a", "python:b"]),
)
digests = st.sampled_from(["", "sha256:" + "a" * 64, "sha256:" + "b" * 64])
identities = st.builds(
    Identity, manifest_digest=digests, config_digest=digests, diff_ids=st.lists(digests, max_size=2).map(tuple)
)


@st.composite
def environments(draw: st.DrawFn, name: str = "a") -> Environment:
    return Environment(
        name=name,
        kind=draw(st.sampled_from(["image", "host", "container", "directory"])),
        identity=draw(identities),
        packages=frozen(
            draw(
                st.dictionaries(st.sampled_from(MANAGERS), st.dictionaries(names, packages, max_size=3).map(frozen), max_size=3)
            )
        ),
        facts=frozen(
            draw(
                st.dictionaries(
                    st.sampled_from(FACT_DIMENSIONS), st.dictionaries(names, values, max_size=3).map(frozen), max_size=6
                )
            )
        ),
        files=frozen(draw(st.dictionaries(paths, files, max_size=12))),
        file_scope=draw(st.sampled_from(["all", "all", "packages-only", "none"])),
        file_skips=draw(st.sampled_from([(), (), ("/tmp",)])),
        missing=frozen(
            draw(st.dictionaries(st.sampled_from(["cpu", "cpu/a", "limits/*", "dpkg", "rpm"]), st.just("why"), max_size=2))
        ),
    )


def accounted(diff: EnvironmentDiff) -> list[str]:
    found = [item.path for group in diff.file_groups for item in group.differences]
    found += [item.path for item in (*diff.loose_files, *diff.covered_files)]
    return found + [key for group in diff.noise for key in group.keys if key.startswith("/")]


@QUICK
@given(environments())
def test_a_place_never_differs_from_itself(place: Environment) -> None:
    diff = compare(place, replace(place, name="b"))
    assert not diff.is_different
    assert diff.exit_status in {0, 3}
    assert diff.differing_paths == 0


@QUICK
@given(environments(), environments("b"))
def test_swapping_the_sides_swaps_the_differences(a: Environment, b: Environment) -> None:
    there, back = compare(a, b), compare(b, a)
    assert there.exit_status == back.exit_status
    assert there.grade == back.grade
    assert there.counts() == back.counts()
    assert {(d.dimension, d.key, d.before, d.after) for d in there.differences} == {
        (d.dimension, d.key, d.after, d.before) for d in back.differences
    }
    assert sorted(accounted(there)) == sorted(accounted(back))


@QUICK
@given(environments(), environments("b"))
def test_every_differing_path_is_accounted_for_exactly_once(a: Environment, b: Environment) -> None:
    a, b = (replace(side, file_scope="all", identity=Identity()) for side in (a, b))
    diff = compare(a, b)
    skips = (*a.file_skips, *b.file_skips)
    expected = set()
    for path in {*a.files, *b.files}:
        before, after = a.files.get(path), b.files.get(path)
        if before is not None and after is not None:
            pair = [replace(fact, package="", size_bytes=0) for fact in (before, after)]
            if UNREADABLE in {before.digest, after.digest}:
                pair = [replace(fact, digest="") for fact in pair]
            if pair[0] == pair[1]:
                continue
        if not _left_out(path, skips):
            expected.add(path)
    found = accounted(diff)
    assert len(found) == len(set(found))
    assert set(found) <= expected
    collapsed = [item.path for item in diff.loose_files if item.below]
    assert all(any(path.startswith(top + "/") for top in collapsed) for path in expected - set(found))
    assert diff.differing_paths == len(expected)


@QUICK
@given(environments(), environments("b"))
def test_identical_is_never_said_of_places_with_a_differing_fact(a: Environment, b: Environment) -> None:
    diff = compare(a, b)
    if diff.exit_status == 0 and not diff.grade.startswith(("G0", "G1")):
        for dimension in {*a.facts, *b.facts}:
            if dimension in {"environment", "image-environment", "importable"}:
                continue
            assert a.facts.get(dimension) == b.facts.get(dimension)


@QUICK
@given(environments())
def test_what_was_written_is_read_back(place: Environment) -> None:
    assert load_environment(dump_environment(place)) == place


@QUICK
@given(environments(), st.data())
def test_a_damaged_file_raises_only_the_promised_errors(place: Environment, data: st.DataObject) -> None:
    raw = bytearray(dump_environment(place))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    with suppress(IntegrityError, UsageError):  # anything else fails the test
        load_environment(bytes(raw))


@QUICK
@given(
    environments(), environments("b"), st.text(max_size=60), st.sampled_from(["KeyError", "UnicodeDecodeError", "OSError", ""])
)
def test_any_diff_can_be_explained_and_shown_the_same_way_twice(
    a: Environment, b: Environment, message: str, kind: str
) -> None:
    diff = compare(a, b)
    causes = explain(diff, FailureEvidence(exception=kind, message=message, text=message))
    assert causes == explain(diff, FailureEvidence(exception=kind, message=message, text=message))
    assert all("\n" not in cause.why for cause in causes)
    page = render_terminal(diff, width=80, causes=causes, test="t")
    assert page == render_terminal(diff, width=80, causes=causes, test="t")
    lines = page.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    page.encode()
    render_terminal(diff, width=80, all=True).encode()
    render_json(diff, causes=causes).encode()
