from __future__ import annotations

import pysequoia
import pytest

from contain.build.debian.release import (
    check_release,
    find_package_index,
    parse_release,
    shipped_keys,
    verify_inrelease,
)
from contain.build.debian.suites import RELEASES
from contain.errors import IntegrityError, NotFound

DIGEST = "ab" * 32
TEXT = f"""\
Origin: Debian
Suite: oldstable
Codename: bookworm
Version: 12.15
Date: Sat, 11 Jul 2026 10:16:37 UTC
Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC
Acquire-By-Hash: yes
Components: main
SHA256:
 {DIGEST}  8790396 main/binary-amd64/Packages.xz
 {"cd" * 32} 11111111 main/binary-amd64/Packages.gz
 {"ef" * 32}       20 main/binary-arm64/Packages.gz
"""
SATURDAY = 1783764997


@pytest.fixture(scope="module")
def archive_key() -> pysequoia.Tsk:
    return pysequoia.Tsk.generate("A test archive <archive@example.org>", profile=pysequoia.Profile.RFC4880)


@pytest.fixture(scope="module")
def stranger() -> pysequoia.Tsk:
    return pysequoia.Tsk.generate("Somebody else <else@example.org>", profile=pysequoia.Profile.RFC4880)


def sign(key: pysequoia.Tsk, text: str = TEXT) -> bytes:
    return pysequoia.sign(key.signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR)


def public(key: pysequoia.Tsk) -> bytes:
    return bytes(key.extract_certificate())


def test_what_a_known_key_signed_is_believed(archive_key: pysequoia.Tsk, stranger: pysequoia.Tsk) -> None:
    signed = verify_inrelease(sign(archive_key), [public(stranger), public(archive_key)])
    assert signed.decode().rstrip("\n") == TEXT.rstrip("\n")


def test_several_keys_in_one_keyring_are_all_known(archive_key: pysequoia.Tsk, stranger: pysequoia.Tsk) -> None:
    assert verify_inrelease(sign(archive_key), [public(stranger) + public(archive_key)])


def test_a_strangers_signature_is_refused(archive_key: pysequoia.Tsk, stranger: pysequoia.Tsk) -> None:
    with pytest.raises(IntegrityError) as caught:
        verify_inrelease(sign(stranger), [public(archive_key)])
    assert caught.value.code == "debian-signature"
    assert "\n" not in caught.value.message


def test_a_changed_byte_is_refused(archive_key: pysequoia.Tsk) -> None:
    changed = sign(archive_key).replace(b"8790396", b"8790397")
    with pytest.raises(IntegrityError):
        verify_inrelease(changed, [public(archive_key)])


@pytest.mark.parametrize("data", [b"", TEXT.encode(), b"<html></html>", b"\x00\xff" * 100])
def test_unsigned_bytes_are_refused(archive_key: pysequoia.Tsk, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        verify_inrelease(data, [public(archive_key)])


def test_text_around_the_signed_part_is_not_believed(archive_key: pysequoia.Tsk) -> None:
    wrapped = b"Codename: evil\n\n" + sign(archive_key) + b"\nSuite: evil\n"
    try:
        signed = verify_inrelease(wrapped, [public(archive_key)])
    except IntegrityError:
        return
    assert b"evil" not in signed


def test_no_keyring_believes_nothing(archive_key: pysequoia.Tsk) -> None:
    with pytest.raises(IntegrityError):
        verify_inrelease(sign(archive_key), [])


def test_a_keyring_that_cannot_be_read_is_an_error_and_not_an_empty_one(archive_key: pysequoia.Tsk) -> None:
    with pytest.raises(IntegrityError, match="keyring"):
        verify_inrelease(sign(archive_key), [b"not a keyring"])


def test_the_shipped_keys_are_those_of_the_known_releases() -> None:
    certificates = [pysequoia.Cert.from_bytes(key) for key in shipped_keys()]
    assert len(certificates) == 6
    names = " ".join(str(user) for certificate in certificates for user in certificate.user_ids)
    for codename, release in RELEASES.items():
        assert names.count(f"({release.version}/{codename})") == 2
    assert not any(certificate.is_revoked for certificate in certificates)


def test_a_release_file_is_read() -> None:
    release = parse_release(TEXT.encode())
    assert (release.suite, release.codename, release.version) == ("oldstable", "bookworm", "12.15")
    assert (release.date_seconds, release.valid_until_seconds) == (SATURDAY, SATURDAY + 7 * 86400)
    assert release.acquire_by_hash
    assert find_package_index(release, "amd64").sha256 == DIGEST
    assert find_package_index(release, "arm64").path.endswith(".gz")
    with pytest.raises(IntegrityError):
        find_package_index(release, "riscv64")


@pytest.mark.parametrize("field", ["Date: yesterday", "Date: ", "Valid-Until: never", "SHA256:\n abc"])
def test_a_release_file_that_says_nothing_useful_is_refused(field: str) -> None:
    name = field.partition(":")[0]
    lines = [line for line in TEXT.splitlines() if not line.startswith((f"{name}:", " "))]
    with pytest.raises(IntegrityError):
        parse_release(("\n".join([*lines, field]) + "\n").encode())


def test_the_suite_must_be_the_one_that_was_asked_for() -> None:
    release = parse_release(TEXT.encode())
    check_release(release, suite="bookworm", point_release="", now_seconds=SATURDAY)
    check_release(release, suite="oldstable", point_release="", now_seconds=SATURDAY)
    with pytest.raises(IntegrityError, match="asked the Debian archive for trixie, got bookworm"):
        check_release(release, suite="trixie", point_release="", now_seconds=SATURDAY)


def test_an_expired_release_file_is_refused() -> None:
    release = parse_release(TEXT.encode())
    with pytest.raises(IntegrityError) as caught:
        check_release(release, suite="bookworm", point_release="", now_seconds=SATURDAY + 8 * 86400)
    assert caught.value.code == "debian-release-expired"


def test_a_release_file_without_an_end_never_expires() -> None:
    text = "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith("Valid-Until"))
    check_release(parse_release(text.encode()), suite="bookworm", point_release="", now_seconds=SATURDAY * 2)


def test_a_point_release_that_the_archive_no_longer_holds_is_refused_with_the_present_one() -> None:
    release = parse_release(TEXT.encode())
    check_release(release, suite="bookworm", point_release="12.15", now_seconds=SATURDAY)
    with pytest.raises(NotFound, match=r"write debian:12\.15"):
        check_release(release, suite="bookworm", point_release="12.11", now_seconds=SATURDAY)
