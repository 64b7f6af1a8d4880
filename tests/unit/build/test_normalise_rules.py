from __future__ import annotations

import re

import pytest

from contain.build.normalise import CAUSES, Action, find_rule
from contain.build.normalise.rewriters import REWRITERS
from contain.build.normalise.rules import RULES, translate


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("var/log/apt/history.log", "apt-log"),
        ("var/log/apt/term.log.1.gz", "apt-log"),
        ("var/log/dpkg.log", "dpkg-log"),
        ("var/cache/ldconfig/aux-cache", "ldconfig-aux-cache"),
        ("root/.cache/pip/http/a/b", "pip-cache"),
        (".cache/pip/http-v2/x", "pip-cache"),
        ("home/app/.npm/_logs/2026.log", "npm-logs"),
        ("root/.npm/_cacache/index-v5/00/60/6a", "npm-cache"),
        ("opt/venv/lib/python3.11/site-packages/a/__pycache__/b.cpython-311.pyc", "pyc-mtime"),
        ("etc/shadow-", "shadow-day"),
        ("srv/project/.git/index", "git-index"),
        ("srv/project/.git/logs/refs/heads/main", "git-reflog"),
        ("tmp/hsperfdata_root/12", "java-performance-data"),
        ("opt/conda/conda-meta/history", "conda-history"),
        ("lib/apk/db/scripts.tar", "apk-scripts-tar"),
    ],
)
def test_the_noise_of_package_managers_has_a_rule(path: str, cause: str) -> None:
    rule = find_rule(path, changing=True)
    assert rule is not None
    assert rule.cause == cause


@pytest.mark.parametrize(
    "path",
    [
        "var/lib/apt/lists/deb.debian.org_debian_dists_bookworm_InRelease",  # a later apt-get install needs them
        "var/lib/dpkg/status",
        "var/cache/apt/archives/a.deb",
        "root/.npm/_cacache/content-v2/sha512/aa/bb/cc",
        "root/.cache/pip",  # the directory itself stays
        "root/.cache/pip/wheels/aa/bb/x.whl",  # the compiler may be gone
        "srv/project/pkgs/cache/data.json",
        "tmp/download.tar.gz",  # a later step may unpack it
        "var/log/nginx/access.log",
        "var/log/apt",
        "app/machine-id",
        "etc/ssh/ssh_host_rsa_key",
        "var/cache/man/index.db",
        "home/user/notes.pyc.txt",
    ],
)
def test_what_a_later_step_may_need_is_left_alone(path: str) -> None:
    assert find_rule(path, changing=True) is None


def test_what_cannot_be_mended_is_named() -> None:
    rule = find_rule("etc/ssh/ssh_host_rsa_key")
    assert rule is not None
    assert (rule.cause, rule.action) == ("ssh-host-keys", Action.NAME)


def test_a_star_stays_within_a_name_and_two_go_deeper() -> None:
    assert re.fullmatch(translate("a/*.log"), "a/b.log")
    assert not re.fullmatch(translate("a/*.log"), "a/b/c.log")
    assert re.fullmatch(translate("**/x/**"), "x/y")
    assert re.fullmatch(translate("**/x/**"), "a/b/x/y/z")
    assert not re.fullmatch(translate("**/x/**"), "a/bx/y")
    assert not re.fullmatch(translate("x/**"), "x")
    assert not re.fullmatch(translate("a.b"), "aXb")


def test_every_rule_names_a_cause_and_a_function_that_exist() -> None:
    for rule in RULES:
        assert rule.cause in CAUSES
        assert (rule.rewriter in REWRITERS) == (rule.action is Action.REWRITE)
        assert CAUSES[rule.cause].mended == (rule.action is not Action.NAME), rule.cause
    assert {rule.rewriter for rule in RULES if rule.rewriter} == set(REWRITERS)


def test_every_cause_says_what_can_be_done() -> None:
    for identifier, cause in CAUSES.items():
        assert identifier == cause.identifier
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", identifier)
        assert cause.title
        assert cause.remedy


@pytest.mark.parametrize(("flags", "reproducible"), [([], True), (["--no-reproducible"], False), (["--reproducible"], True)])
def test_layers_are_normalised_unless_that_is_refused(flags: list[str], reproducible: bool) -> None:
    from contain.cli.arguments import Parser
    from contain.cli.build import add_build_arguments, parse_request

    parser = Parser()
    add_build_arguments(parser)
    assert parse_request(parser.parse_args([*flags, "."])).reproducible is reproducible


def test_a_step_that_was_not_normalised_is_another_one_for_the_cache() -> None:
    from contain.build.cache.keys import key_of, run_ingredients
    from contain.build.steps import RunStep
    from contain.dockerfile.parse import parse_dockerfile
    from contain.registry.platform import host_platform

    instruction = parse_dockerfile("FROM scratch\nRUN true\n", file="Dockerfile").stages[0].instructions[0]
    step = RunStep(
        instruction=instruction,
        created_by="",
        arguments=("true",),
        script=None,
        environment=(),
        network="default",
        security="sandbox",
        mounts=(),
        user="",
        working_directory="/",
    )
    keys = {
        key_of(run_ingredients(step, base="", platform=host_platform(), epoch_seconds=0, normalised=version))
        for version in (None, 1, 2)
    }
    assert len(keys) == 3


def test_the_documentation_names_every_cause_that_is_mended() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[3] / "docs/reproducible-builds.md").read_text()
    assert [name for name, cause in CAUSES.items() if cause.mended and f"`{name}`" not in text] == []
