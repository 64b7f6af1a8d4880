from __future__ import annotations

from pathlib import Path

import pytest

from contain.container.request.identity import home_of, parse_identity, resolve_identity
from contain.errors import UsageError
from contain.spec import Identity

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:App,,,:/home/app:/bin/sh
77:x:1500:1500::/seventy-seven:/bin/sh
nohome:x:1600:1600:::/bin/sh
"""
GROUP = """\
root:x:0:
app:x:1001:
tools:x:2000:app,daemon
docker:x:998:app
88:x:2500:
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(groups=(0,))),
        ("root", Identity(groups=(0,))),
        ("0", Identity(groups=(0,))),
        ("app", Identity(user_id=1000, group_id=1001, groups=(998, 1001, 2000))),
        ("1000", Identity(user_id=1000, group_id=1001, groups=(998, 1001, 2000))),
        ("01000", Identity(user_id=1000, group_id=1001, groups=(998, 1001, 2000))),
        ("4242", Identity(user_id=4242, group_id=0, groups=(0,))),
        ("app:tools", Identity(user_id=1000, group_id=2000, groups=(2000,))),
        ("app:5", Identity(user_id=1000, group_id=5, groups=(5,))),
        ("4242:4343", Identity(user_id=4242, group_id=4343, groups=(4343,))),
        ("4242:app", Identity(user_id=4242, group_id=1001, groups=(1001,))),
        ("77", Identity(user_id=1500, group_id=1500, groups=(1500,))),  # a name before a number
        ("0:88", Identity(user_id=0, group_id=2500, groups=(2500,))),
        ("2147483647", Identity(user_id=2147483647, group_id=0, groups=(0,))),
    ],
)
def test_users_are_read_as_docker_reads_them(user: str, expected: Identity) -> None:
    assert parse_identity(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    "user",
    [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "9" * 5000,
        "0:4294967296",
        ":",
        ":0",
        "1000:",
        "app:",
        "-1",
        "+1",
        "0x0",
        " 0",
        "0 ",
        "0\n",
        "\u0661",  # a digit, not an ASCII one
        "\u00b2",  # "digit" to str.isdigit, no number to int
        "nobody-knows",
        "app:nobody-knows",
        "root:x",
        "app:tools:more",
    ],
)
def test_odd_users_are_refused_and_never_taken_for_root(user: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_identity(user, PASSWD, GROUP)
    assert caught.value.code == "bad-user"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "row",
    [
        "app",
        "app:x",
        "app:x::",
        "app:x:0",
        "app:x:-1:-1::/:/bin/sh",
        "app:x:4294967296:0::/:/bin/sh",
        "app:x:" + "9" * 5000 + ":0::/:/bin/sh",
        "app:x:\u00b2:0::/:/bin/sh",
        "app:x:0:\u00b2::/:/bin/sh",
        "app:x: 0:0::/:/bin/sh",
        "\x00app:x:0:0::/:/bin/sh",
        "#app:x:0:0::/:/bin/sh",
    ],
)
def test_malformed_rows_name_nobody(row: str) -> None:
    with pytest.raises(UsageError, match="no matching entries in passwd file"):
        parse_identity("app", row, "")


def test_the_first_row_wins() -> None:
    assert parse_identity("app", "app:x:5:5::/:\napp:x:0:0::/:\n", "").user_id == 5


def test_malformed_groups_are_passed_over() -> None:
    assert parse_identity("app", PASSWD, "odd\nbad:x:99999999999:app\n\u00b2:x:\u00b2:app\ngood:x:7:app\n").groups == (7, 1001)


@pytest.mark.parametrize(
    ("identity", "home"),
    [
        (Identity(user_id=1000), "/home/app"),
        (Identity(), "/root"),
        (Identity(user_id=1600), "/"),
        (Identity(user_id=4242), "/"),
    ],
)
def test_the_home_directory_is_the_users_row(identity: Identity, home: str) -> None:
    assert home_of(identity, PASSWD) == home


def test_root_has_a_home_without_any_file() -> None:
    assert home_of(Identity(), "") == "/root"


def test_the_image_without_account_files_knows_numbers_only(tmp_path: Path) -> None:
    assert resolve_identity("12:34", (tmp_path,)) == Identity(user_id=12, group_id=34, groups=(34,))
    assert resolve_identity("", (tmp_path,)) == Identity(groups=(0,))
    with pytest.raises(UsageError):
        resolve_identity("app", (tmp_path,))


def test_the_highest_layer_says_who_is_who(tmp_path: Path) -> None:
    for name, number in (("low", 1), ("high", 2)):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/passwd").write_text(f"app:x:{number}:{number}::/:/bin/sh\n")
    assert resolve_identity("app", (tmp_path / "low", tmp_path / "high")).user_id == 2
