"""The system call policy, run by an interpreter of classic BPF: over all numbers, and over the arguments that matter.

Names and numbers come from this machine's kernel headers where they are installed, else from the table below.
"""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from contain.linux.seccomp import compile_default_policy

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000

# asm/unistd_64.h of x86-64, the names that Docker's profile refuses with the default capabilities
DENIED = {
    "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "pivot_root": 155, "_sysctl": 156, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171,
    "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175, "delete_module": 176, "get_kernel_syms": 177,
    "query_module": 178, "quotactl": 179, "nfsservctl": 180, "getpmsg": 181, "putpmsg": 182, "afs_syscall": 183, "tuxcall": 184,
    "security": 185, "lookup_dcookie": 212, "clock_settime": 227, "vserver": 236, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256,
    "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "setns": 308,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "syslog": 103,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "set_mempolicy_home_node": 450, "uprobe": 336, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
}  # fmt: skip
CONDITIONAL = {"clone": 56, "personality": 135, "socket": 41, "ioctl": 16}
CLONE3 = 435


def run_filter(program: bytes, number: int, arguments: tuple[int, ...] = (), *, audit: int = AUDIT["x86_64"]) -> int:
    """What the filter returns for a call; struct seccomp_data as linux/seccomp.h has it."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, audit, 0, *(value & 0xFFFFFFFFFFFFFFFF for value in padded))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator = position = 0
    for _ in range(10_000):
        code, if_true, if_false, value = instructions[position]
        position += 1
        match code:
            case 0x20:  # load a word
                assert value % 4 == 0
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x06:
                return int(value)
            case 0x05:
                position += value
            case 0x15:
                position += if_true if accumulator == value else if_false
            case 0x25:
                position += if_true if accumulator > value else if_false
            case 0x35:
                position += if_true if accumulator >= value else if_false
            case 0x45:
                position += if_true if accumulator & value else if_false
            case 0x54:
                accumulator &= value
            case _:
                raise AssertionError(f"an instruction that the kernel would not take: {code:#x}")
    raise AssertionError("the filter does not end")


@pytest.fixture(scope="module")
def program() -> bytes:
    return compile_default_policy(machine="x86_64")


def header_numbers() -> dict[str, int]:
    for path in ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"):
        if Path(path).exists():
            text = Path(path).read_text()
            return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    return {}


def test_the_table_of_this_test_is_the_kernels() -> None:
    numbers = header_numbers()
    if not numbers:
        pytest.skip("no kernel headers for x86-64 are installed")
    wanted = {**DENIED, **CONDITIONAL, "clone3": CLONE3}
    assert {name: numbers[name] for name in wanted if name in numbers} == {
        name: number for name, number in wanted.items() if name in numbers
    }


def test_every_number_has_the_treatment_of_the_policy(program: bytes) -> None:
    known = {*range(337), *range(424, 467)}
    for number in range(601):
        if number in CONDITIONAL.values():
            continue
        expected = ENOSYS if number == CLONE3 or number not in known else EPERM if number in DENIED.values() else ALLOW
        assert run_filter(program, number) == expected, number


@pytest.mark.parametrize("name", sorted(DENIED))
def test_what_docker_denies_is_denied(program: bytes, name: str) -> None:
    assert run_filter(program, DENIED[name]) == EPERM


def test_every_call_that_the_headers_name_is_known(program: bytes) -> None:
    numbers = header_numbers()
    unknown = [name for name, number in numbers.items() if number < 467 and run_filter(program, number) == ENOSYS]
    assert set(unknown) <= {"clone3"}


@pytest.mark.parametrize("number", [467, 500, 10_000, 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
def test_numbers_of_the_future_are_not_there(program: bytes, number: int) -> None:
    assert run_filter(program, number) == ENOSYS


@pytest.mark.parametrize("number", [0, 1, 56, 59, 512, 520, 547, *CONDITIONAL.values(), *DENIED.values()])
def test_x32_numbers_are_never_allowed(program: bytes, number: int) -> None:
    assert run_filter(program, number | X32_BIT) != ALLOW


@pytest.mark.parametrize("audit", [0x40000003, 0xC00000B7, 0x40000028, 0])
def test_another_architecture_is_killed(program: bytes, audit: int) -> None:
    assert all(run_filter(program, number, audit=audit) == KILL for number in (0, 1, 11, 120, 165))


@pytest.mark.parametrize("flags", [0, 17, 0x01200011, 0x003D0F00, 0x00000011 | 0x00010000])
def test_threads_and_processes_can_be_made(program: bytes, flags: int) -> None:
    assert run_filter(program, CONDITIONAL["clone"], (flags,)) == ALLOW


@pytest.mark.parametrize("bit", [17, 25, 26, 27, 28, 29, 30])
def test_namespaces_cannot_be_made(program: bytes, bit: int) -> None:
    for flags in (1 << bit, 1 << bit | 17, 1 << bit | 0x003D0F00, 1 << bit | 0xFFFFFFFF00000000):
        assert run_filter(program, CONDITIONAL["clone"], (flags,)) == EPERM


@pytest.mark.parametrize("value", [0, 8, 0x20000, 0x20008, 0xFFFFFFFF])
def test_harmless_personalities_are_allowed(program: bytes, value: int) -> None:
    assert run_filter(program, CONDITIONAL["personality"], (value,)) == ALLOW


@pytest.mark.parametrize("value", [1, 0x0040000, 0x0400000, 0x20001, 0x7FFFFFFF])
def test_other_personalities_are_denied(program: bytes, value: int) -> None:
    assert run_filter(program, CONDITIONAL["personality"], (value,)) == EPERM


def test_socket_families_are_allowed_but_for_two(program: bytes) -> None:
    denied = [family for family in range(64) if run_filter(program, CONDITIONAL["socket"], (family, 1, 0)) != ALLOW]
    assert denied == [38, 40]  # AF_ALG, AF_VSOCK


def test_the_kernel_looks_at_the_low_half_of_a_family_and_so_does_the_filter(program: bytes) -> None:
    assert run_filter(program, CONDITIONAL["socket"], (38 | 1 << 32,)) == EPERM


@pytest.mark.parametrize("request_number", [0x5412, 0x541C])
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32, 1 << 63])
def test_typing_into_a_terminal_is_denied_whatever_the_high_bits_are(program: bytes, request_number: int, high: int) -> None:
    assert run_filter(program, CONDITIONAL["ioctl"], (0, request_number | high)) == EPERM


@pytest.mark.parametrize("request_number", [0x5401, 0x5413, 0x541B, 0x5411, 0x8912, 0])
def test_other_device_requests_are_allowed(program: bytes, request_number: int) -> None:
    assert run_filter(program, CONDITIONAL["ioctl"], (0, request_number)) == ALLOW


def test_the_test_worker_may_join_namespaces_and_nothing_else_more(program: bytes) -> None:
    worker = compile_default_policy(machine="x86_64", allow_setns=True)
    differing = [number for number in range(601) if run_filter(worker, number) != run_filter(program, number)]
    assert differing == [DENIED["setns"]]


def test_the_kernel_takes_programs_of_this_length(program: bytes) -> None:
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096  # BPF_MAXINSNS


def test_arm64_has_the_same_policy_under_its_own_numbers() -> None:
    program = compile_default_policy(machine="aarch64")

    def run(number: int, *arguments: int) -> int:
        return run_filter(program, number, arguments, audit=AUDIT["aarch64"])

    # mount umount2 pivot_root unshare setns bpf keyctl reboot; asm-generic/unistd.h
    assert [run(number) for number in (40, 39, 41, 97, 268, 280, 219, 142)] == [EPERM] * 8
    assert [run(number) for number in (56, 63, 64, 93, 221, 172)] == [ALLOW] * 6  # openat read write exit execve getpid
    assert (run(220, 0x10000000), run(220, 17), run(435), run(198, 38), run(29, 0, 0x5412)) == (
        EPERM,
        ALLOW,
        ENOSYS,
        EPERM,
        EPERM,
    )
    assert run(300) == ENOSYS  # a gap in the generic table


def test_an_architecture_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        compile_default_policy(machine="vax")
