from __future__ import annotations

import pytest

from contain.errors import NotSupported, UsageError
from pytest_contain.controller import option_shapes
from pytest_contain.options import (
    PLACES,
    REASONS,
    XDIST_OPTIONS,
    OptionShape,
    Place,
    SplitArguments,
    parse_processes,
    split_arguments,
)

SHAPES = {
    name: OptionShape(arity=arity)
    for names, arity in {
        "-k -m -p -c -o -W -r --maxfail --junitxml --rootdir --contain-env --deselect --html --known --tb --capture": "1",
        "-x -v -q -s -l --lf --in-container --pdb --collect-only": "0",
        "--cache-show --debug": "?",
        "--many": "*",
    }.items()
    for name in names.split()
}


def split(*arguments: str) -> SplitArguments:
    return split_arguments(arguments, SHAPES)


def tokens(*arguments: str) -> list[str]:
    return [token for group in split(*arguments).worker for token in group.tokens]


def test_every_option_of_the_installed_pytest_has_a_place(pytestconfig: pytest.Config) -> None:
    parser = pytestconfig._parser
    ours = ("--contain-", "--in-container", "--hypothesis-", "--buildkit-corpus")
    unplaced = [name for name in option_shapes(parser) if name not in PLACES and not name.startswith(ours)]
    assert unplaced == []


def test_reasons_and_xdist_options_are_in_the_table() -> None:
    assert set(REASONS) | XDIST_OPTIONS <= set(PLACES)
    assert all(PLACES[name] is Place.REFUSED for name in REASONS)


def test_paths_and_node_ids_go_to_both() -> None:
    assert split("tests", "a.py::t[x y]").host == ("tests", "a.py::t[x y]")
    assert tokens("tests", "a.py::t[x y]") == ["tests", "a.py::t[x y]"]


def test_an_option_that_only_a_conftest_file_knows_goes_to_the_worker_and_not_to_the_host() -> None:
    assert tokens("--flavour=sweet", "tests") == ["--flavour=sweet", "tests"]
    assert split("--flavour=sweet", "--sour", "tests").host == ("tests",)


def test_the_value_of_an_unknown_option_stays_behind_it() -> None:
    assert tokens("--flavour", "sweet", "tests") == ["--flavour", "sweet", "tests"]


def test_options_of_the_host_do_not_reach_the_worker() -> None:
    assert tokens("--lf", "--junitxml=r.xml", "--deselect", "a.py", "--contain-env", "ci", "--in-container", "-rA") == []


@pytest.mark.parametrize(
    "arguments", [["-k", "a or b"], ["-k=a"], ["-ka"], ["--tb=short"], ["--tb", "short"], ["-xvs"], ["-vv"]]
)
def test_options_of_both_reach_both(arguments: list[str]) -> None:
    result = split(*arguments)
    assert "".join(result.host) == "".join(token for group in result.worker for token in group.tokens)
    assert result.host


def test_a_cluster_of_short_options_is_taken_apart() -> None:
    assert split("-xqk", "word").host == ("-x", "-q", "-k", "word")
    assert split("-vn4").processes == "4"


def test_an_option_of_a_plugin_that_both_may_have_is_optional_inside() -> None:
    groups = split("--known", "value", "--unknown").worker
    assert [(group.tokens, group.optional_name) for group in groups] == [
        (("--known", "value"), "--known"),
        (("--unknown",), None),
    ]


@pytest.mark.parametrize("written", [["-n", "4"], ["-n4"], ["-n=4"], ["--numprocesses=4"], ["--numprocesses", "4"]])
def test_dash_n_is_ours_however_it_is_written(written: list[str]) -> None:
    shapes = SHAPES | {"-n": OptionShape(arity="1"), "--numprocesses": OptionShape(arity="1")}
    result = split_arguments([*written, "tests"], shapes)
    assert (result.processes, result.host) == ("4", ("tests",))
    assert [group.tokens for group in result.worker] == [("tests",)]


def test_a_refused_option_is_named_with_the_reason() -> None:
    with pytest.raises(NotSupported, match="--pdb") as caught:
        split("--pdb")
    assert "terminal" in caught.value.remedy


def test_coverage_is_refused_unless_it_is_switched_off() -> None:
    with pytest.raises(NotSupported, match="--cov"):
        split("--cov=src", "--cov-report=html")
    assert tokens("--cov=src", "--cov-report=html", "--no-cov", "tests") == ["tests"]
    assert split("--cov=src", "--cov-report=html", "--no-cov", "tests").host == ("tests",)


def test_this_plugin_is_not_asked_for_inside() -> None:
    assert tokens("-p", "contain", "-p", "no:xdist", "-p", "theirs") == ["-p", "theirs"]


def test_everything_behind_two_dashes_is_a_path() -> None:
    assert tokens("--", "-k") == ["-k"]


def test_optional_and_repeated_values_end_at_the_next_option() -> None:
    assert split("--debug", "-x").host == ("--debug", "-x")
    assert split("--cache-show", "x*", "-x").host == ("--cache-show", "x*", "-x")
    assert split("--many", "a", "b", "-x").host == ("--many", "a", "b", "-x")


def test_numbers_of_processes() -> None:
    assert [parse_processes(text, available=6) for text in (None, "auto", "logical", "3", "0")] == [1, 6, 6, 3, 1]
    with pytest.raises(UsageError, match="not a number"):
        parse_processes("many", available=6)
