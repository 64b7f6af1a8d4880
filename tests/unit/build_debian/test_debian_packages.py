from __future__ import annotations

import pytest

from contain.build.debian.packages import parse_packages, select_packages
from contain.errors import IntegrityError


def stanza(name: str, *, version: str = "1.0", **fields: str) -> str:
    rows = {"Package": name, "Version": version, "Architecture": "amd64"}
    rows |= {key.replace("_", "-"): value for key, value in fields.items()}
    rows |= {"Filename": f"pool/main/{name}_{version}_amd64.deb", "Size": "10", "SHA256": "a" * 64}
    return "".join(f"{key}: {value}\n" for key, value in rows.items())


def select(*stanzas: str, extra: tuple[str, ...] = ()) -> list[str]:
    index = parse_packages("\n".join(stanzas).encode())
    return [package.name for package in select_packages(index, extra=extra).packages]


def test_essential_and_required_packages_and_what_they_depend_on_are_taken() -> None:
    names = select(
        stanza("bash", Essential="yes", Pre_Depends="libc6 (>= 2.36)", Depends="base-files (>= 2)"),
        stanza("mount", Priority="required"),
        stanza("nano", Priority="important"),
        stanza("libc6", Depends="libgcc-s1, libcrypt1:any"),
        stanza("libgcc-s1"),
        stanza("libcrypt1"),
        stanza("base-files", Essential="yes"),
        stanza("apt"),
        stanza("vim"),
        extra=("apt",),
    )
    assert names == ["apt", "base-files", "bash", "libc6", "libcrypt1", "libgcc-s1", "mount"]


def test_of_alternatives_the_one_already_taken_wins_then_the_first_that_exists() -> None:
    assert select(
        stanza("a", Essential="yes", Depends="x | y, no-longer-there | z"),
        stanza("x"),
        stanza("y", Priority="required"),
        stanza("z"),
    ) == ["a", "y", "z"]


def test_a_provided_name_is_satisfied_by_who_provides_it() -> None:
    assert select(
        stanza("base-files", Essential="yes", Pre_Depends="awk"),
        stanza("gawk", Provides="awk"),
        stanza("mawk", Priority="required", Provides="awk (= 1), other"),
    ) == ["base-files", "mawk"]
    assert select(
        stanza("a", Essential="yes", Depends="virtual"), stanza("q", Provides="virtual"), stanza("p", Provides="virtual")
    ) == [
        "a",
        "p",
    ]


def test_a_merged_system_is_not_converted() -> None:
    assert select(
        stanza("init-system-helpers", Essential="yes", Depends="usrmerge | usr-is-merged"),
        stanza("usrmerge", Depends="perl"),
        stanza("perl"),
        stanza("usr-is-merged"),
    ) == ["init-system-helpers", "usr-is-merged"]


def test_the_highest_version_of_a_name_is_taken_by_debians_order() -> None:
    index = parse_packages(
        "\n".join(
            [
                stanza("dpkg", version="1.9", Essential="yes"),
                stanza("dpkg", version="1:0.1", Essential="yes"),
                stanza("dpkg", version="1.10~rc1", Essential="yes"),
            ]
        ).encode()
    )
    (package,) = select_packages(index, extra=()).packages
    assert (package.version, package.path) == ("1:0.1", "pool/main/dpkg_1:0.1_amd64.deb")


def test_the_seed_is_the_essential_part_and_makes_the_same_choices() -> None:
    index = parse_packages(
        "\n".join(
            [
                stanza("base-files", Essential="yes", Pre_Depends="awk"),
                stanza("gawk", Provides="awk"),
                stanza("mawk", Priority="required", Provides="awk"),
                stanza("tzdata", Priority="required"),
            ]
        ).encode()
    )
    assert select_packages(index, extra=()).seed == {"base-files", "mawk"}


def test_the_order_of_the_list_does_not_matter() -> None:
    stanzas = [
        stanza("a", Essential="yes", Depends="v"),
        stanza("b", Provides="v"),
        stanza("c", Provides="v"),
        stanza("d", Essential="yes"),
    ]
    assert select(*stanzas) == select(*reversed(stanzas)) == ["a", "b", "d"]


def test_a_dependency_that_the_archive_does_not_have_is_named() -> None:
    with pytest.raises(IntegrityError, match=r"a depends on b \| c, which the archive does not have"):
        select(stanza("a", Essential="yes", Depends="b | c"))
    with pytest.raises(IntegrityError, match="no package apt"):
        select(stanza("a", Essential="yes"), extra=("apt",))


@pytest.mark.parametrize(
    "line", ["Filename: /etc/passwd", "Filename: pool/../../x.deb", "Size: -1", "Size: 1x", "SHA256: abc", "SHA256: "]
)
def test_a_promise_that_names_no_file_is_refused(line: str) -> None:
    field = line.partition(":")[0]
    text = "".join(
        f"{row}\n" if not row.startswith(f"{field}:") else f"{line}\n" for row in stanza("a", Essential="yes").splitlines()
    )
    with pytest.raises(IntegrityError):
        select(text)


def test_a_list_that_is_not_one_is_refused() -> None:
    with pytest.raises(IntegrityError):
        parse_packages(b"<html>not found</html>")
