from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from contain.build.cache.exchange import CacheSource, open_cache_sources, parse_cache, render_cache
from contain.build.cache.keys import key_of
from contain.build.cache.places import CachePlace, Scope, parse_cache_from, parse_cache_to
from contain.errors import ContainError, IntegrityError, NotSupported, UsageError
from contain.oci import Descriptor, canonical_json, digest_of
from contain.oci.image import MEDIA_LAYER
from contain.progress import Silent
from contain.store import StepRecord, Store

INGREDIENTS = {"v": 2, "kind": "run", "command": ["a"]}
DIFF_ID = "sha256:" + "a" * 64
RECORD = StepRecord(
    key=key_of(INGREDIENTS),
    position="p",
    ingredients=canonical_json(INGREDIENTS).decode(),
    diff_id=DIFF_ID,
    result="{}",
    created_seconds=7,
    command="c" * 32,
)
LAYER = Descriptor(media_type=MEDIA_LAYER, digest="sha256:" + "b" * 64, size=3)


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


# -- places ---------------------------------------------------------------------------------------------------------------------


def test_a_name_alone_is_a_registry() -> None:
    found = parse_cache_from("example.com/app/cache:1")
    assert str(found.reference) == "example.com/app/cache:1"
    assert found == CachePlace(text=found.text, reference=found.reference)
    assert parse_cache_to("example.com/c").scope is Scope.RESULT


def test_all_that_can_be_said_of_a_place() -> None:
    found = parse_cache_to("type=local,dest=/x,tag=t,mode=max,compression=gzip,ignore-error=true")
    assert (found.directory, found.tag, found.scope, found.compression, found.ignore_errors) == (
        Path("/x"),
        "t",
        Scope.ALL_STAGES,
        "gzip",
        True,
    )
    assert parse_cache_from('type=local,"src=/a,b"').directory == Path("/a,b")
    assert str(parse_cache_from("ref=example.com/c").reference) == "example.com/c:latest"


@pytest.mark.parametrize(
    "text",
    [
        "type=local",
        "type=local,src=",
        "type=registry",
        "type=moon,ref=x",
        "src=/x",
        "type=local,src=/x,ref=y",
        "type=registry,ref=x,src=/y",
        "type=registry,ref=x,tag=y",
        "type=local,src=/x,src=/y",
        "type=local,src=/x,mode=max",
        "type=local,,src=/x",
        "type=registry,ref=UPPER",
        "=",
    ],
)
def test_a_wrong_cache_from_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cache_from(text)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["type=local,dest=/x,mode=all", "type=local,dest=/x,compression=bzip2", "type=local,src=/x"])
def test_a_wrong_cache_to_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cache_to(text)


@pytest.mark.parametrize("text", ["inline", "type=inline", "type=gha,url=x,token=y", "type=s3,bucket=b", "type=azblob,name=x"])
def test_places_that_others_have_are_refused_by_name(text: str) -> None:
    with pytest.raises(NotSupported) as caught:
        parse_cache_to(text)
    assert caught.value.code == "cache-type"


# -- the format -----------------------------------------------------------------------------------------------------------------


def rendered() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(render_cache([RECORD], {DIFF_ID: LAYER})[1])
    return value


def test_what_is_written_is_read_again_and_has_one_form() -> None:
    manifest, config = render_cache([RECORD], {DIFF_ID: LAYER})
    cache = parse_cache(config)
    (record,) = cache.records
    assert (record.key, record.ingredients, record.diff_id, record.created_seconds, record.command) == (
        RECORD.key,
        RECORD.ingredients,
        DIFF_ID,
        7,
        RECORD.command,
    )
    assert cache.blobs == {DIFF_ID: LAYER.digest}
    assert json.loads(manifest)["config"]["digest"] == digest_of(config)
    assert render_cache([RECORD, RECORD][:1], {DIFF_ID: LAYER}) == (manifest, config)


def test_listings_of_inputs_travel_unless_they_are_large() -> None:
    listings = {DIFF_ID: b"small", LAYER.digest: bytes(2 << 20)}
    assert parse_cache(render_cache([RECORD], {}, listings)[1]).listings == {DIFF_ID: b"small"}


def test_a_key_is_never_taken_from_a_cache() -> None:
    value = rendered()
    value["records"][0]["key"] = "sha256:" + "f" * 64
    value["records"][0]["ingredients"]["command"] = ["b"]
    (record,) = parse_cache(canonical_json(value)).records
    assert record.key == key_of({**INGREDIENTS, "command": ["b"]})


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("records"),
        lambda value: value.pop("layers"),
        lambda value: value.update(version=99),
        lambda value: value.update(records={}),
        lambda value: value.update(layers=[]),
        lambda value: value["records"].append(None),
        lambda value: value["records"].append({}),
        lambda value: value["records"][0].update(ingredients=[]),
        lambda value: value["records"][0].update(details="x"),
        lambda value: value["records"][0].update(diff_id="../../etc/passwd"),
        lambda value: value["records"][0].update(diff_id=5),
        lambda value: value["records"][0].update(created_seconds="x"),
        lambda value: value["records"][0].update(created_seconds=True),
        lambda value: value["records"][0].update(created_seconds=1 << 70),
        lambda value: value["records"][0].update(command="x" * 1000),
        lambda value: value["layers"].update({DIFF_ID: "sha256:x"}),
        lambda value: value["layers"].update({"x": LAYER.digest}),
        lambda value: value.update(listings=[]),
        lambda value: value["listings"].update({DIFF_ID: "?"}),
        lambda value: value["listings"].update({DIFF_ID: 5}),
        lambda value: value.update(records=[value["records"][0]] * 20_001),
    ],
)
def test_a_damaged_cache_is_an_error_of_ours(change: Any) -> None:
    value = rendered()
    change(value)
    with pytest.raises(IntegrityError) as caught:
        parse_cache(json.dumps(value).encode())
    assert caught.value.code == "bad-cache"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"version":1}', b"[" * 100_000])
def test_what_is_no_cache_at_all_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_cache(data)


# -- hostile contents -----------------------------------------------------------------------------------------------------------


def tar(name: str = "f", content: bytes = b"x") -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def source_of(data: bytes, *, diff_id: str = DIFF_ID) -> CacheSource:
    layer = Descriptor(media_type=MEDIA_LAYER, digest=digest_of(data), size=len(data))

    def read(descriptor: Descriptor, out: BinaryIO) -> None:
        assert descriptor == layer
        out.write(data)

    return CacheSource("there", [RECORD], {diff_id: layer}, read)


@pytest.mark.parametrize("data", [b"", b"junk" * 200, tar(), tar("../escape")])
def test_a_layer_that_is_not_the_promised_one_does_not_enter(data: bytes, tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        with pytest.raises(ContainError):
            source_of(data).fetch_layer(DIFF_ID, store, Silent())
        assert not store.has_layer(DIFF_ID)
        assert not list((tmp_path / "layers").iterdir())


def test_a_layer_that_contain_would_write_otherwise_does_not_enter(tmp_path: Path) -> None:
    """Its archive could not be written again later."""
    data = tar()  # Python's padding to 10240 bytes
    with Store.open(tmp_path) as store:
        with pytest.raises(IntegrityError, match="not written as contain writes"):
            source_of(data, diff_id=digest_of(data)).fetch_layer(digest_of(data), store, Silent())
        assert not store.has_layer(digest_of(data))


def test_a_record_without_its_layer_is_no_hit() -> None:
    source = CacheSource("there", [RECORD], {}, lambda _descriptor, _out: None)
    assert source.find(RECORD.key) is None


def write_layout(directory: Path, manifest: bytes, config: bytes) -> None:
    (directory / "blobs/sha256").mkdir(parents=True)
    for data in (manifest, config):
        (directory / "blobs/sha256" / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    row = {"mediaType": "m", "digest": digest_of(manifest), "size": len(manifest)}
    row["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"manifests": [row]}))


def opened(directory: Path) -> tuple[tuple[CacheSource, ...], list[str]]:
    import contextlib

    told = Warnings()
    with contextlib.ExitStack() as cleanup:
        return open_cache_sources([CachePlace(text="there", directory=directory)], told, cleanup), told.lines


def test_a_directory_is_read(tmp_path: Path) -> None:
    write_layout(tmp_path, *render_cache([RECORD], {DIFF_ID: LAYER}))
    (source,), warnings = opened(tmp_path)
    assert warnings == []
    assert source.find(RECORD.key) is not None
    assert [record.key for record in source.alike(RECORD.command)] == [RECORD.key]


@pytest.mark.parametrize(
    "damage", ["no index", "index", "index row", "manifest gone", "manifest", "config", "huge", "other kind", "escape", "file"]
)
def test_a_damaged_directory_is_a_warning_and_no_cache(tmp_path: Path, damage: str) -> None:
    manifest, config = render_cache([RECORD], {DIFF_ID: LAYER})
    blob = tmp_path / "blobs/sha256"
    if damage == "huge":
        manifest = manifest.replace(b'"size":%d}' % len(config), b'"size":99999999999}')
        assert b"99999999999" in manifest
    if damage == "other kind":
        manifest = manifest.replace(b"vnd.contain.build-cache.config.v1+json", b"vnd.oci.image.config.v1+json")
    write_layout(tmp_path, manifest, config)
    match damage:
        case "no index":
            (tmp_path / "index.json").unlink()
        case "index":
            (tmp_path / "index.json").write_text("{")
        case "index row":
            (tmp_path / "index.json").write_text('{"manifests":[5]}')
        case "manifest gone":
            (blob / digest_of(manifest)[7:]).unlink()
        case "manifest":
            (blob / digest_of(manifest)[7:]).write_bytes(manifest.replace(b"a", b"b"))
        case "config":
            (blob / digest_of(config)[7:]).write_bytes(b" " * len(config))
        case "escape":
            text = (tmp_path / "index.json").read_text().replace(digest_of(manifest), "sha256:../../../../etc/passwd")
            (tmp_path / "index.json").write_text(text)
        case "file":
            tmp_path = tmp_path / "index.json"
    sources, warnings = opened(tmp_path)
    assert sources == ()
    assert len(warnings) == 1
    assert warnings[0].startswith("--cache-from there: not used: ")
