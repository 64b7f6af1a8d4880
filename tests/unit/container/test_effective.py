"""What a container really got, from the texts in which the kernel tells it."""

from __future__ import annotations

from contain.container.effective import names_of, parse_id_map, parse_mounts, parse_resource_limits, parse_status

STATUS = """Name:\tserver
Umask:\t0027
Uid:\t1000\t1000\t1000\t1000
Gid:\t1001\t1001\t1001\t1001
Groups:\t5 7\x20
CapInh:\t0000000000000000
CapPrm:\t0000000000000021
CapEff:\t0000000000000001
CapBnd:\t8000000000000021
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
"""


def test_privileges_by_name() -> None:
    found = parse_status(STATUS)
    assert found["Capabilities"] == {
        "Inheritable": [],
        "Permitted": ["CAP_CHOWN", "CAP_KILL"],
        "Effective": ["CAP_CHOWN"],
        "Bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_63"],
        "Ambient": [],
    }
    assert (found["NoNewPrivileges"], found["SeccompMode"], found["SeccompFilters"]) == (True, "filter", 3)
    assert (found["Umask"], found["HostUserId"], found["HostGroupId"], found["HostGroups"]) == ("0027", 1000, 1001, [5, 7])


def test_an_older_kernel_says_less() -> None:
    found = parse_status("Seccomp:\t0\nNoNewPrivs:\t0\n")
    assert (found["SeccompMode"], found["SeccompFilters"], found["NoNewPrivileges"]) == ("disabled", 0, False)


def test_no_capabilities_have_no_names() -> None:
    assert names_of(0) == []


def test_mounts_with_their_options() -> None:
    text = (
        "31 23 0:28 / /data\\040dir ro,nosuid shared:9 master:3 - tmpfs tmp\\040fs rw,size=4k\n"
        "32 31 8:1 /var/x /y rw - ext4 /dev/sda1 rw\n"
        "a line that is none\n"
    )
    first, second = parse_mounts(text)
    assert (first["Destination"], first["Type"], first["Source"], first["Root"]) == ("/data dir", "tmpfs", "tmp fs", "/")
    assert (first["Options"], first["FilesystemOptions"]) == (["ro", "nosuid"], ["rw", "size=4k"])
    assert (first["Propagation"], second["Propagation"]) == (["shared", "master"], ["private"])
    assert second["Root"] == "/var/x"


def test_ids_and_limits() -> None:
    assert parse_id_map("         0     100000      65536\n     65536          7          1\n") == [
        {"Inside": 0, "Outside": 100000, "Count": 65536},
        {"Inside": 65536, "Outside": 7, "Count": 1},
    ]
    limits = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        "Max open files            1024                 524288               files     \n"
        "Max nice priority         0                    0                    \n"
    )
    assert parse_resource_limits(limits) == {
        "Max cpu time": {"Soft": -1, "Hard": -1},
        "Max open files": {"Soft": 1024, "Hard": 524288},
        "Max nice priority": {"Soft": 0, "Hard": 0},
    }
