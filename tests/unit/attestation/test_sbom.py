"""Bills of materials: everything that is installed, valid for other people's tools, and the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from contain.attestation import take_inventory
from contain.attestation.inventory import Inventory
from contain.attestation.licences import parse_debian_copyright, parse_expression, parse_python_licence
from contain.attestation.purl import package_url
from contain.attestation.sbom import Subject, render_sbom
from contain.environment import DirectoryFiles, capture_root

DIGEST = "sha256:" + "ab" * 32
OS_RELEASE = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: bash
Status: install ok installed
Architecture: amd64
Version: 1:5.2-2
"""
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: GPL-3+

Files: debian/*
License: GPL-2+ or Expat
"""
APK = "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\n\nP:busybox\nV:1.36.1-r5\nA:x86_64\nL:GPL-2.0-only AND MIT\n\n"


def make_root(path: Path, files: dict[str, str]) -> DirectoryFiles:
    for name, text in files.items():
        place = path / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return DirectoryFiles(str(path))


def debian_root(path: Path) -> DirectoryFiles:
    sum_of_left_pad = base64.b64encode(hashlib.sha512(b"left-pad").digest()).decode()
    hidden = {"packages": {"node_modules/left-pad": {"version": "1.3.0", "integrity": f"sha512-{sum_of_left_pad}"}}}
    direct = {"url": "https://example.org/a.whl", "archive_info": {"hashes": {"sha256": "cd" * 32}}}
    return make_root(
        path,
        {
            "/etc/os-release": OS_RELEASE,
            "/var/lib/dpkg/status": STATUS,
            "/usr/share/doc/bash/copyright": COPYRIGHT,
            "/usr/lib/python3/dist-packages/Flask_Login-3.0.dist-info/METADATA": "Name: Flask_Login\nVersion: 3.0\n"
            "License-Expression: BSD-3-Clause\n\ntext",
            "/opt/venv/lib/python3.11/site-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\nLicense: MIT\n\n",
            "/opt/venv/lib/python3.11/site-packages/a-1.dist-info/direct_url.json": json.dumps(direct),
            "/opt/other/lib/python3.11/site-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\nLicense: MIT\n\n",
            "/app/node_modules/left-pad/package.json": '{"name": "left-pad", "version": "1.3.0", "license": "WTFPL"}',
            "/app/node_modules/@types/node/package.json": '{"name": "@types/node", "version": "20.1.0"}',
            "/app/node_modules/left-pad/dist/package.json": '{"type": "module"}',
            "/app/node_modules/.package-lock.json": json.dumps(hidden),
        },
    )


def test_an_inventory_has_what_every_package_manager_says_is_installed(tmp_path: Path) -> None:
    found = take_inventory(debian_root(tmp_path))
    assert found.versions() == {
        "dpkg": {"bash": ("1:5.2-2",), "libc6": ("2.36-9+deb12u9",)},
        "npm": {"@types/node": ("20.1.0",), "left-pad": ("1.3.0",)},
        "python": {"a": ("1",), "flask-login": ("3.0",)},
    }
    by_name = {each.name: each for each in found.components}
    assert by_name["bash"].licences.names == ("Expat", "GPL-2+", "GPL-3+")
    assert by_name["flask-login"].licences.expression == "BSD-3-Clause"
    assert by_name["left-pad"].checksums == {"sha512": hashlib.sha512(b"left-pad").hexdigest()}
    assert by_name["left-pad"].licences.expression == "WTFPL"
    assert by_name["libc6"].source == "glibc"


def test_one_version_in_two_directories_is_one_component_and_one_from_elsewhere_another(tmp_path: Path) -> None:
    found = [each for each in take_inventory(debian_root(tmp_path)).components if each.name == "a"]
    assert [(each.local, dict(each.checksums)) for each in found] == [("", {}), ("an archive", {"sha256": "cd" * 32})]
    plain = make_root(
        tmp_path / "plain",
        {
            "/opt/b/lib/python3.11/site-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\n\n",
            "/opt/a/lib/python3.11/site-packages/a-1.dist-info/METADATA": "Name: a\nVersion: 1\n\n",
        },
    )
    (component,) = take_inventory(plain).components
    assert component.places == ("/opt/a/lib/python3.11/site-packages", "/opt/b/lib/python3.11/site-packages")


def test_an_inventory_knows_at_least_what_a_capture_knows(tmp_path: Path) -> None:
    view = debian_root(tmp_path)
    captured = capture_root(view, name="x", kind="directory", secret_key=b"k", files="none")
    found = take_inventory(view).versions()
    for manager, packages in captured.packages.items():
        for name, installs in packages.items():
            assert {install.version for install in installs} <= set(found[manager][name])


def test_alpine_packages_have_their_licences(tmp_path: Path) -> None:
    view = make_root(tmp_path, {"/etc/os-release": "ID=alpine\nVERSION_ID=3.19.0\n", "/lib/apk/db/installed": APK})
    found = take_inventory(view).components
    assert [(each.purl, each.licences.expression) for each in found] == [
        ("pkg:apk/alpine/busybox@1.36.1-r5?arch=x86_64&distro=alpine-3.19.0", "GPL-2.0-only AND MIT"),
        ("pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.0", "MIT"),
    ]


def test_what_cannot_be_read_is_named_and_the_bill_says_that_it_is_incomplete(tmp_path: Path) -> None:
    view = make_root(tmp_path, {"/var/lib/rpm/rpmdb.sqlite": "", "/a/site-packages/x-1.dist-info/METADATA": "nothing"})
    found = take_inventory(view)
    assert set(found.unread) == {"rpm", "python"}
    value = json.loads(render_sbom(Subject(digest=DIGEST), found, tool_version="1"))
    assert value["compositions"][0]["aggregate"] == "incomplete"
    assert {each["name"] for each in value["metadata"]["properties"]} == {"contain:unread:rpm", "contain:unread:python"}


def test_nonsense_inside_an_image_is_no_error(tmp_path: Path) -> None:
    deep = "[" * 100_000
    view = make_root(
        tmp_path,
        {
            "/var/lib/dpkg/status": "\0\xff: x\n\n\n: \nPackage:",
            "/lib/apk/db/installed": "\n\n:\nP\nP:\nV:1",
            "/a/node_modules/x/package.json": deep,
            "/a/node_modules/y/package.json": '{"version": ["1"], "license": {"type": 7}}',
            "/a/node_modules/.package-lock.json": '{"packages": {"node_modules/x": {"integrity": "sha512-%% sha1- md5-aa"}, "y": 3}}',
            "/a/site-packages/x-1.dist-info/METADATA": "Name: x\nVersion: 1\n",
            "/a/site-packages/x-1.dist-info/direct_url.json": '{"archive_info": {"hash": "sha256=xyz", "hashes": {"sha256": 3}}}',
        },
    )
    (component,) = take_inventory(view).components
    assert component.checksums == {}
    render_sbom(Subject(digest=DIGEST), take_inventory(view), tool_version="1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("deb", "libstdc++6", "1:2~rc1+b2", {"namespace": "debian"}), "pkg:deb/debian/libstdc%2B%2B6@1:2~rc1%2Bb2"),
        (("npm", "node", "1.0", {"namespace": "@types"}), "pkg:npm/%40types/node@1.0"),
        (("pypi", "a", "1", {"qualifiers": {"b": "x y", "a": "", "c": "1"}}), "pkg:pypi/a@1?b=x%20y&c=1"),
        (("pypi", "a", "", {}), "pkg:pypi/a"),
    ],
)
def test_package_urls_are_written_by_the_specification(arguments: Any, expected: str) -> None:
    kind, name, version, rest = arguments
    url = package_url(kind, name, version, **rest)
    assert url == expected
    library = pytest.importorskip("packageurl", reason="packageurl-python is not installed")
    assert library.PackageURL.from_string(url).to_string() == url


def test_a_licence_is_an_expression_or_a_name_and_never_a_text() -> None:
    assert parse_expression("(MIT OR Apache-2.0)").expression == "(MIT OR Apache-2.0)"
    assert parse_expression("SEE LICENSE IN file").names == ("SEE LICENSE IN file",)
    assert parse_expression("(MIT").names == ("(MIT",)
    assert parse_expression("x" * 5000 + " y").names == ()
    assert parse_debian_copyright("This package is GPL.\nLicense: none\n").names == ()
    assert parse_python_licence("License: UNKNOWN\n").names == ()
    osi = "Classifier: License :: OSI Approved :: MIT License\nLicense: a long text\n"
    assert parse_python_licence(osi).names == ("MIT License",)


def bill(tmp_path: Path) -> bytes:
    return render_sbom(Subject(digest=DIGEST, layers=(DIGEST,)), take_inventory(debian_root(tmp_path)), tool_version="1")


def test_the_same_image_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    first, second = bill(tmp_path / "a"), bill(tmp_path / "b")
    assert first == second
    assert str(tmp_path).encode() not in first
    value = json.loads(first)
    assert "timestamp" not in value["metadata"]
    assert value["dependencies"][0]["dependsOn"] == sorted(each["bom-ref"] for each in value["components"])


def test_the_serial_number_names_the_bill(tmp_path: Path) -> None:
    empty = Inventory(components=())
    first = json.loads(render_sbom(Subject(digest=DIGEST), empty, tool_version="1"))
    other = json.loads(render_sbom(Subject(digest=DIGEST.replace("ab", "cd")), empty, tool_version="1"))
    assert first["serialNumber"] != other["serialNumber"]


def test_the_bill_is_valid_by_the_official_schema(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema", reason="the CycloneDX library with its JSON schemas is not installed")
    validation = pytest.importorskip("cyclonedx.validation.json", reason="the CycloneDX library is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(bill(tmp_path).decode()) is None
    assert validator.validate_str('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": 3}') is not None


def test_the_reference_library_reads_the_bill(tmp_path: Path) -> None:
    model = pytest.importorskip("cyclonedx.model.bom", reason="the CycloneDX library is not installed")
    read = model.Bom.from_json(json.loads(bill(tmp_path)))
    assert {(each.name, each.version) for each in read.components} >= {("libc6", "2.36-9+deb12u9"), ("left-pad", "1.3.0")}
