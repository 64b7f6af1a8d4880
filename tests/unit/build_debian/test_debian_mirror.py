from __future__ import annotations

from pathlib import Path

import pytest

from contain.build.debian.mirror import (
    DEFAULT_MIRROR,
    choose_mirrors,
    parse_apt_proxies,
    parse_deb822_sources,
    parse_debian_table,
    parse_one_line_sources,
    read_host_proxies,
    read_host_sources,
)
from contain.errors import UsageError

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian/ https://second.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_sources_count_when_they_are_enabled_binary_sources() -> None:
    assert choose_mirrors(None, parse_deb822_sources(DEB822)) == (
        "http://mirror.example/debian",
        "https://second.example/debian",
        DEFAULT_MIRROR,
    )


@pytest.mark.parametrize(
    "line",
    [
        "# deb http://mirror.example/debian bookworm main",
        "deb-src http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian-security bookworm-security main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb http://mirror.example/debian bookworm-backports main",
        "deb http://packages.example/php bookworm main",
        "deb https://download.example/linux/debian bookworm stable",
        "deb http://archive.example/ubuntu jammy main",
        "deb file:/srv/debian bookworm main",
        "deb cdrom:[Debian]/ bookworm main",
    ],
)
def test_other_archives_are_not_taken_for_a_debian_mirror(line: str) -> None:
    assert choose_mirrors(None, parse_one_line_sources(line)) == (DEFAULT_MIRROR,)


@pytest.mark.parametrize(
    ("line", "mirror"),
    [
        ("deb http://mirror.example/debian/ bookworm main", "http://mirror.example/debian"),
        (
            "deb [arch=amd64 signed-by=/k.gpg] https://mirror.example/debian trixie main contrib # why",
            "https://mirror.example/debian",
        ),
        (
            "deb http://snapshot.example/archive/debian/20250520T000000Z bookworm main",
            "http://snapshot.example/archive/debian/20250520T000000Z",
        ),
    ],
)
def test_one_line_sources_name_a_mirror(line: str, mirror: str) -> None:
    assert choose_mirrors(None, parse_one_line_sources(line)) == (mirror, DEFAULT_MIRROR)


def test_a_configured_mirror_is_the_only_one() -> None:
    sources = parse_one_line_sources("deb http://mirror.example/debian bookworm main")
    assert choose_mirrors("http://own.example/debian/", sources) == ("http://own.example/debian",)


@pytest.mark.parametrize("mirror", ["ftp://own.example/debian", "own.example/debian", "http://", "http://a b/debian"])
def test_a_configured_mirror_that_is_no_address_is_refused(mirror: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_mirrors(mirror, ())
    assert caught.value.code == "bad-mirror"


def test_a_host_without_apt_has_the_default_mirror(tmp_path: Path) -> None:
    assert read_host_sources(tmp_path / "none") == ()
    assert choose_mirrors(None, ()) == (DEFAULT_MIRROR,)


def test_the_hosts_files_are_read_in_both_formats(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/debian bookworm main\n")
    (tmp_path / "sources.list.d/b.list").write_text("deb http://two.example/debian bookworm main\n")
    (tmp_path / "sources.list.d/c.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/d.disabled").write_text("deb http://three.example/debian bookworm main\n")
    assert choose_mirrors(None, read_host_sources(tmp_path))[:3] == (
        "http://one.example/debian",
        "http://two.example/debian",
        "http://mirror.example/debian",
    )


def test_apts_proxies_are_found_and_direct_is_none(tmp_path: Path) -> None:
    assert parse_apt_proxies('Acquire::http::Proxy "http://cache.example:3142";\n// Acquire::https::Proxy "http://no";') == {
        "http": "http://cache.example:3142"
    }
    assert parse_apt_proxies('Acquire::http::Proxy "DIRECT";') == {}
    (tmp_path / "apt.conf.d").mkdir()
    (tmp_path / "apt.conf.d/01proxy").write_text('Acquire::http::Proxy "http://cache.example:3142/";\n')
    assert read_host_proxies(tmp_path) == {"http": "http://cache.example:3142/"}


def test_the_configuration_knows_one_setting() -> None:
    assert parse_debian_table({}) is None
    assert parse_debian_table({"mirror": "http://own.example/debian"}) == "http://own.example/debian"
    for table in ({"miror": "x"}, {"mirror": 1}):
        with pytest.raises(UsageError):
            parse_debian_table(table)
