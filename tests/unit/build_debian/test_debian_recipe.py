from __future__ import annotations

import pytest

from contain.build.debian.mirror import AptSource, parse_deb822_sources, parse_one_line_sources
from contain.build.debian.recipe import added_files, bootstrap_environment, render_script, render_sources
from contain.build.debian.suites import RELEASES

NAMES = [*RELEASES]


@pytest.mark.parametrize("codename", NAMES)
def test_the_images_sources_are_the_distributions_own(codename: str) -> None:
    file = render_sources(RELEASES[codename])
    parse = parse_deb822_sources if file.path.endswith(".sources") else parse_one_line_sources
    assert set(parse(file.text)) == {
        AptSource(uri="http://deb.debian.org/debian", suite=codename, components=("main",)),
        AptSource(uri="http://deb.debian.org/debian", suite=f"{codename}-updates", components=("main",)),
        AptSource(uri="http://deb.debian.org/debian-security", suite=f"{codename}-security", components=("main",)),
    }


@pytest.mark.parametrize("codename", NAMES)
def test_every_added_file_is_installed_with_its_mode(codename: str) -> None:
    files = added_files(RELEASES[codename])
    script = render_script(files, epoch_seconds=1783764997)
    for file in files:
        assert f"install -D -m {file.mode:04o} /contain-bootstrap/files/{file.path} /{file.path}\n" in script


def test_the_script_is_complete_shell_with_the_archives_day() -> None:
    script = render_script((), epoch_seconds=1783764997)
    assert "{" not in script.replace("${", "")
    assert script.startswith("set -eu\n")
    assert r"s/^([^:]*:[^:]*):[^:]*:/\1:20645:/" in script


def test_maintainer_scripts_ask_nothing_and_know_the_archives_time() -> None:
    environment = dict(bootstrap_environment(1783764997))
    assert environment["DEBIAN_FRONTEND"] == "noninteractive"
    assert environment["SOURCE_DATE_EPOCH"] == "1783764997"
    assert not {name for name in environment if "proxy" in name.lower()}
