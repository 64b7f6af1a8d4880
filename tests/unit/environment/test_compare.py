from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from contain.environment import Environment, FileFact, Identity, Package, compare
from contain.environment.facts import DIMENSIONS, UNREADABLE, frozen, hide_secret

Change = Callable[..., Environment]
SITE = "/usr/local/lib/python3.11/site-packages"

SEEDED_FACTS = {
    "os release": ("os-release/VERSION_ID", "13"),
    "distribution patch level": ("os-release/debian_version", "12.6"),
    "libc flavour": ("libc/flavour", "musl"),
    "installed locales": ("locales/installed", ("C.utf8",)),
    "a user's id": ("users/app", "1001:1000:/home/app:/bin/sh"),
    "a group's members": ("groups/app", "1000:www"),
    "config: user": ("image-config/user", "root"),
    "config: working directory": ("image-config/working directory", "/srv"),
    "config: command": ("image-config/command", ("python3", "app.py")),
    "config: variable": ("image-environment/DEBUG", "1"),
    "order of PATH": ("image-environment/PATH", "/usr/bin:/usr/local/bin:/bin"),
    "injected variable": ("environment/FEATURE_X", "on"),
    "locale": ("locale/LANG", None),
    "time zone": ("time-zone/TZ", "Europe/Berlin"),
    "time zone database": ("time-zone/zone database", "2025b"),
    "Python version": ("interpreter/version", "3.11.9 (main)"),
    "Python flags": ("interpreter/flags", ("optimize",)),
    "OpenSSL": ("interpreter/OpenSSL", "OpenSSL 3.3.0"),
    "order of sys.path": ("sys-path/sys.path", (SITE, "/usr/lib/python311.zip", "/usr/lib/python3.11")),
    "which copy is imported": ("importable/requests", "2.28.0 (/opt/other)"),
    "uid of the process": ("process/user id", "0"),
    "umask": ("process/umask", "0077"),
    "capabilities": ("process/effective capabilities", "00000000a80425fb"),
    "memory limit": ("limits/memory", "536870912"),
    "cpu limit": ("limits/cpu", "0.5"),
    "open files": ("ulimits/nofile", "1024 (hard 1024)"),
    "cpu count": ("cpu/count", "1"),
    "cpu features": ("cpu/features", ("sse4_2",)),
    "cpu architecture": ("cpu/architecture", "aarch64"),
    "kernel": ("kernel/release", "5.4.0"),
    "mount flags": ("mounts//", "overlay ro"),
    "size of shared memory": ("mounts/size of /dev/shm", "1 MiB"),
    "name servers": ("dns/name servers", ("8.8.8.8",)),
    "resolver options": ("dns/options", ("ndots:5",)),
}


@pytest.mark.parametrize("seed", SEEDED_FACTS)
def test_one_seeded_fact_is_the_only_difference_and_stands_in_its_dimension(
    seed: str, place: Environment, change: Change
) -> None:
    where, value = SEEDED_FACTS[seed]
    dimension, _, key = where.partition("/")
    diff = compare(place, change(place, facts={where: value}))
    assert [(found.dimension, found.key) for found in diff.differences] == [(dimension, key)]
    assert diff.differences[0].before == place.facts[dimension].get(key)
    assert diff.differences[0].after == value
    assert (diff.loose_files, diff.file_groups, diff.not_comparable) == ((), (), ())
    assert diff.exit_status == 1
    is_runtime = DIMENSIONS[dimension].scope == "runtime"
    assert diff.runtime == ("different" if is_runtime else "same")
    assert diff.grade == "G2"  # the files are the same


SEEDED_PACKAGES = {
    "dpkg version": ("dpkg/openssl", Package(version="3.0.16-1", place="amd64")),
    "dpkg removed": ("dpkg/openssl", None),
    "apk version": ("apk/busybox", Package(version="1.37.0-r0", place="x86_64")),
    "Python version": ("python/pyyaml", Package(version="5.4", place=SITE)),
    "Python editable": ("python/pyyaml", Package(version="6.0.1", place=SITE, note="editable")),
    "Python location": ("python/pyyaml", Package(version="6.0.1", place="/opt/venv/lib/python3.11/site-packages")),
    "npm added": ("npm/typescript", Package(version="5.4.0", place="/usr/local/lib/node_modules")),
}


@pytest.mark.parametrize("seed", SEEDED_PACKAGES)
def test_one_seeded_package_is_the_only_difference(seed: str, place: Environment, change: Change) -> None:
    where, package = SEEDED_PACKAGES[seed]
    diff = compare(place, change(place, packages={where: package}))
    assert [f"{found.dimension}/{found.key}" for found in diff.differences] == [where]
    assert diff.differences[0].before != diff.differences[0].after


TOOL = "/usr/local/bin/tool"
SEEDED_FILES = {
    "content": (TOOL, {"digest": "sha256:other"}, ("content",)),
    "mode": (TOOL, {"mode": 0o644}, ("mode",)),
    "setuid": (TOOL, {"mode": 0o4755}, ("mode",)),
    "owner": (TOOL, {"uid": 1000}, ("owner",)),
    "group": (TOOL, {"gid": 5}, ("owner",)),
    "capabilities": (TOOL, {"capabilities": "0100"}, ("capabilities",)),
    "link target": ("/usr/local/bin/python", {"target": "python3.12"}, ("target",)),
    "kind": (TOOL, {"kind": "symlink", "target": "x", "digest": ""}, ("kind",)),
    "mode of the root directory": ("/", {"mode": 0o700}, ("mode",)),
}


@pytest.mark.parametrize("seed", SEEDED_FILES)
def test_one_seeded_file_difference_names_what_differs(seed: str, place: Environment, change: Change) -> None:
    path, fields, aspects = SEEDED_FILES[seed]
    diff = compare(place, change(place, files={path: replace(place.files[path], **fields)}))  # type: ignore[arg-type]
    assert [(found.path, found.aspects) for found in diff.loose_files] == [(path, aspects)]
    assert not diff.differences
    assert (diff.exit_status, diff.grade) == (1, "")


def test_equal_captures_of_one_image_are_identical_at_g0(place: Environment) -> None:
    diff = compare(place, replace(place, name="deployment"))
    assert (diff.grade, diff.exit_status, diff.runtime) == ("G0", 0, "same")


def test_the_same_config_and_layers_in_another_manifest_are_g1(place: Environment) -> None:
    diff = compare(place, replace(place, identity=replace(place.identity, manifest_digest="sha256:" + "9" * 64)))
    assert (diff.grade, diff.exit_status) == ("G1", 0)


def test_equal_files_from_other_layers_are_g2(place: Environment, change: Change) -> None:
    diff = compare(place, change(place))
    assert (diff.grade, diff.exit_status, diff.is_different) == ("G2", 0, False)
    assert "0 equal layers" in diff.grade_reason


def test_two_equal_captures_without_any_digest_are_g2(place: Environment) -> None:
    host = replace(place, identity=Identity())
    assert compare(host, host).grade == "G2"


def test_only_known_noise_is_g3_and_exit_0(place: Environment, change: Change) -> None:
    other = change(
        place, files={"/etc/machine-id": replace(place.files["/etc/machine-id"], digest="sha256:x"), "/var/log/dpkg.log": None}
    )
    diff = compare(place, other)
    assert (diff.grade, diff.exit_status) == ("G3", 0)
    assert {group.name: group.keys for group in diff.noise} == {
        "machine id": ("/etc/machine-id",),
        "apt and dpkg logs": ("/var/log/dpkg.log",),
    }
    assert "2 paths of known noise" in diff.grade_reason


def test_a_changed_mode_is_never_noise(place: Environment, change: Change) -> None:
    diff = compare(place, change(place, files={"/etc/machine-id": replace(place.files["/etc/machine-id"], mode=0o600)}))
    assert [found.path for found in diff.loose_files] == ["/etc/machine-id"]


def test_files_of_a_package_that_differs_are_grouped_under_it(place: Environment, change: Change) -> None:
    paths = ("/usr/bin/openssl", "/usr/lib/libssl.so.3")
    diff = compare(
        place,
        change(
            place,
            packages={"dpkg/openssl": Package(version="3.0.16-1", place="amd64")},
            files={path: replace(place.files[path], digest="sha256:new") for path in paths},
        ),
    )
    assert [(group.owner, group.explained, len(group.differences)) for group in diff.file_groups] == [("dpkg:openssl", True, 2)]
    assert diff.counts() == (("package", 1),)


def test_a_changed_file_inside_an_equal_package_is_a_difference(place: Environment, change: Change) -> None:
    diff = compare(place, change(place, files={"/usr/bin/ls": replace(place.files["/usr/bin/ls"], digest="sha256:evil")}))
    assert [(group.owner, group.explained) for group in diff.file_groups] == [("dpkg:coreutils", False)]
    assert diff.exit_status == 1
    assert "not G3: files differ inside 1 package of the same version" in diff.grade_reason


def test_a_one_sided_directory_stands_for_what_is_in_it(place: Environment, change: Change) -> None:
    directory = FileFact(kind="directory", mode=0o755, uid=0, gid=0)
    file = replace(place.files[TOOL], digest="sha256:1")
    diff = compare(
        place, change(place, files={"/opt/x": directory, "/opt/x/a": file, "/opt/x/b": directory, "/opt/x/b/c": file})
    )
    assert [(found.path, found.paths) for found in diff.loose_files] == [("/opt/x", 4)]
    assert diff.differing_paths == 4


def test_a_file_that_only_repeats_a_reported_fact_is_not_reported_twice(place: Environment, change: Change) -> None:
    passwd = {"/etc/passwd": replace(place.files["/etc/passwd"], digest="sha256:x")}
    with_fact = compare(place, change(place, files=passwd, facts={"users/app": "1001:1000:/home/app:/bin/sh"}))
    assert [found.path for found in with_fact.covered_files] == ["/etc/passwd"]
    assert not with_fact.loose_files
    without_fact = compare(place, change(place, files=passwd))
    assert [found.path for found in without_fact.loose_files] == ["/etc/passwd"]


def test_one_cause_seen_in_several_dimensions_is_one_difference(place: Environment, change: Change) -> None:
    diff = compare(place, change(place, facts={"locale/LANG": "C", "environment/LANG": "C"}))
    assert [(found.dimension, found.key, found.also) for found in diff.differences] == [("locale", "LANG", ("environment",))]


def test_variables_of_a_session_are_noise(place: Environment, change: Change) -> None:
    diff = compare(place, change(place, facts={"environment/HOSTNAME": "two"}))
    assert not diff.differences
    assert [(group.name, group.keys) for group in diff.noise] == [("session variables", ("HOSTNAME",))]
    assert diff.exit_status == 0


def test_packages_that_moved_together_are_one_difference(place: Environment, change: Change) -> None:
    names = [f"p{index}" for index in range(8)]
    here = change(place, packages={f"python/{name}": Package(version="1", place="/a") for name in names}, identity=Identity())
    there = change(place, packages={f"python/{name}": Package(version="1", place="/b") for name in names})
    diff = compare(here, there)
    assert [(found.key, found.before, found.after) for found in diff.differences] == [("(8 packages moved)", "/a", "/b")]


def test_a_dimension_that_one_side_could_not_read_is_not_comparable(place: Environment, change: Change) -> None:
    facts = {name: found for name, found in place.facts.items() if name != "ulimits"}
    diff = compare(place, replace(change(place), facts=frozen(facts), missing=frozen({"ulimits": "no permission"})))
    assert [(gap.what, gap.reason) for gap in diff.not_comparable] == [("ulimits", "deployment: no permission")]
    assert diff.exit_status == 3
    assert diff.runtime == "partly"


def test_one_unreadable_key_does_not_hide_the_others(place: Environment, change: Change) -> None:
    other = change(place, facts={"limits/memory": None, "limits/cpu": "2"}, missing=frozen({"limits/memory": "no cgroup"}))
    diff = compare(place, other)
    assert [found.key for found in diff.differences] == ["cpu"]
    assert [gap.what for gap in diff.not_comparable] == ["limits memory"]


def test_a_place_that_did_not_run_is_not_taken_for_equal(place: Environment, change: Change) -> None:
    image_only = {name: found for name, found in place.facts.items() if DIMENSIONS[name].scope == "image"}
    diff = compare(place, replace(change(place), facts=frozen(image_only)))
    assert [gap.what for gap in diff.not_comparable] == ["runtime facts"]
    assert diff.exit_status == 3
    neither = compare(replace(place, facts=frozen(image_only)), replace(change(place), facts=frozen(image_only)))
    assert (neither.exit_status, neither.runtime) == (0, "not captured")


def test_two_places_that_both_refused_to_run_are_not_fully_comparable(place: Environment, change: Change) -> None:
    image_only = frozen({name: found for name, found in place.facts.items() if DIMENSIONS[name].scope == "image"})
    refused = frozen({"runtime": "no /bin/sh"})
    diff = compare(replace(place, facts=image_only, missing=refused), replace(change(place), facts=image_only, missing=refused))
    assert [gap.reason for gap in diff.not_comparable] == ["ci: no /bin/sh", "deployment: no /bin/sh"]
    assert diff.exit_status == 3


def test_one_image_is_identical_to_itself_even_if_nothing_in_it_can_be_asked(place: Environment) -> None:
    image_only = frozen({name: found for name, found in place.facts.items() if DIMENSIONS[name].scope == "image"})
    empty = replace(place, facts=image_only, missing=frozen({"runtime": "no /bin/sh"}))
    diff = compare(empty, empty)
    assert (diff.grade, diff.exit_status) == ("G0", 0)
    assert diff.notes == ("neither place was asked while it ran: no /bin/sh",)


def test_a_file_that_cannot_be_read_is_not_taken_for_equal(place: Environment, change: Change) -> None:
    hidden = replace(place.files[TOOL], digest=UNREADABLE)
    diff = compare(replace(place, files=frozen({**place.files, TOOL: hidden})), change(place, files={TOOL: hidden}))
    assert diff.exit_status == 3
    assert diff.not_comparable[0].what == "content of 1 files"


def test_differences_win_over_what_cannot_be_compared(place: Environment, change: Change) -> None:
    diff = compare(place, change(place, facts={"process/umask": "0077"}, missing=frozen({"rpm": "not read yet"})))
    assert (diff.exit_status, len(diff.not_comparable)) == (1, 1)


def test_files_of_packages_only_are_compared_as_far_as_they_go(place: Environment, change: Change) -> None:
    owned = {path: fact for path, fact in place.files.items() if fact.package}
    diff = compare(place, replace(change(place), files=frozen(owned), file_scope="packages-only"))
    assert not diff.is_different
    assert (diff.exit_status, [gap.what for gap in diff.not_comparable]) == (3, ["files outside packages"])


def test_directories_that_one_side_left_out_are_not_reported_as_missing(place: Environment, change: Change) -> None:
    diff = compare(change(place, files={"/tmp/x": place.files[TOOL]}, identity=Identity()), change(place, file_skips=("/tmp",)))
    assert not diff.loose_files
    assert diff.notes == ("left out of the files: /tmp",)


def test_secrets_under_one_key_are_compared_and_under_two_keys_are_not(place: Environment, change: Change) -> None:
    def side(value: str, key: bytes) -> Environment:
        return change(place, facts={"environment/API_TOKEN": hide_secret(value, key)})

    assert compare(side("a", b"1"), side("a", b"1")).exit_status == 0
    assert [found.key for found in compare(side("a", b"1"), side("b", b"1")).differences] == ["API_TOKEN"]
    two_keys = compare(side("a", b"1"), side("a", b"2"))
    assert not two_keys.differences
    assert two_keys.exit_status == 3
    assert "CONTAIN_FINGERPRINT_KEY" in two_keys.not_comparable[0].reason


def test_what_a_shell_could_not_tell_is_not_comparable(place: Environment, change: Change) -> None:
    other = change(place, facts={"cpu/features": None, "cpu/model": None}, missing=frozen({"cpu/*": "no Python"}))
    diff = compare(place, other)
    assert not diff.differences
    assert [gap.what for gap in diff.not_comparable] == ["cpu features, model"]
