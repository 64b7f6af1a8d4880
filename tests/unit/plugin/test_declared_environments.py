from __future__ import annotations

from pathlib import Path

import pytest

from contain.declared import (
    EnvironmentSettings,
    default_environment,
    find_environment,
    parse_environments,
    parse_size_bytes,
    read_environments,
)
from contain.errors import ContainError, NotFound, NotSupported, UsageError

FILE = Path("/project/pyproject.toml")


def parse(text: str) -> dict[str, EnvironmentSettings]:
    return parse_environments(text, file=FILE)


def test_a_declaration_becomes_settings_with_paths_beside_the_file() -> None:
    found = parse(
        """
        [tool.contain.environments.ci]
        dockerfile = "docker/Dockerfile"
        target = "test"
        build_args = { A = "1" }

        [tool.contain.environments.deployment]
        image = "python:3.12"
        memory = "512m"
        cpus = 1.5
        pids_limit = 50
        env = { TZ = "UTC", N = 3 }
        pass_env = ["CI"]
        user = 1000
        network = "none"
        """
    )
    ci, deployment = found["ci"], found["deployment"]
    assert (ci.dockerfile, ci.context, ci.target, ci.build_args) == (
        Path("/project/docker/Dockerfile"),
        Path("/project"),
        "test",
        (("A", "1"),),
    )
    assert (deployment.image, deployment.memory_bytes, deployment.cpus, deployment.pids_limit) == (
        "python:3.12",
        512 << 20,
        1.5,
        50,
    )
    assert deployment.env == (("TZ", "UTC"), ("N", "3"))
    assert (deployment.pass_env, deployment.user, deployment.dockerfile) == (("CI",), "1000", None)


def test_an_empty_declaration_means_the_dockerfile_beside_it() -> None:
    assert parse("[tool.contain.environments.x]")["x"].dockerfile == Path("/project/Dockerfile")


def test_the_image_host_is_this_machine() -> None:
    assert parse('[tool.contain.environments.x]\nimage = "host"')["x"].is_host


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dockerfil = "x"', "unknown key 'dockerfil'"),
        ('dockerfile = "x"\nimage = "y"', "exclude each other"),
        ('image = "y"\ntarget = "t"', "needs a dockerfile"),
        ("dockerfile = 3", "must be a non-empty string"),
        ('memory = "lots"', "is not a size"),
        ("memory = 0", "is not a size"),
        ("cpus = -1", "positive number"),
        ("pids_limit = 1.5", "whole number"),
        ("env = [1]", "table of strings"),
        ('pass_env = "CI"', "list of names"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_table(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(f"[tool.contain.environments.ci]\n{text}")
    assert "/project/pyproject.toml" in str(caught.value)


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parse('[tool.contain.environments.ci]\ndockerfil = "x"')
    assert caught.value.remedy == "did you mean 'dockerfile'?"
    with pytest.raises(UsageError, match="unknown key 'enviroments'"):
        parse("[tool.contain.enviroments.ci]")


def test_a_network_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="bridge"):
        parse('[tool.contain.environments.ci]\nnetwork = "bridge"')


def test_broken_toml_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool")
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        read_environments(tmp_path / "pyproject.toml")
    assert read_environments(tmp_path / "nothing.toml") == {}


def test_which_environment_is_meant_without_a_name(tmp_path: Path) -> None:
    assert default_environment(tmp_path, {}).is_host
    (tmp_path / "Dockerfile").touch()
    found = default_environment(tmp_path, {})
    assert (found.name, found.dockerfile, found.context) == ("default", tmp_path / "Dockerfile", tmp_path)
    one = EnvironmentSettings(name="one", image="x")
    assert default_environment(tmp_path, {"one": one}) is one
    with pytest.raises(UsageError, match="several environments"):
        default_environment(tmp_path, {"one": one, "two": one})


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    declared = {"deployment": EnvironmentSettings(name="deployment", image="x")}
    assert find_environment("deployment", tmp_path, declared).image == "x"
    assert find_environment("host", tmp_path, declared).is_host
    with pytest.raises(NotFound) as caught:
        find_environment("deploiment", tmp_path, declared)
    assert caught.value.remedy == "did you mean 'deployment'?"


@pytest.mark.parametrize(
    ("text", "size"), [("512m", 512 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("100", 100), (7, 7), ("1kb", 1024)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size_bytes(text, what="memory") == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", True, 0, -5])
def test_no_sizes(text: str | int) -> None:
    with pytest.raises(ContainError):
        parse_size_bytes(text, what="memory")
