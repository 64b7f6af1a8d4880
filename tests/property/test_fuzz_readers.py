"""Everything that reads what others wrote: a value or a `ContainError`, never anything else.

`TARGETS` are functions of bytes. Here Hypothesis gives each of them a few seconds of inputs, on every run of the tests;
``nox -s fuzz`` gives them hours, guided by coverage (``tests/fuzz/run.py``). A target may also hold promises about the value.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import io
import json
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contain.dockerfile import (
    expand,
    expand_heredoc,
    parse_dockerfile,
    parse_dockerignore,
    parse_trigger,
    render_dockerfile,
    split_words,
)
from contain.dockerfile.checks import check_dockerfile
from contain.dockerfile.checks.render import render_findings
from contain.errors import ContainError
from contain.oci import parse_config, parse_index, parse_manifest
from contain.oci.image import render_config, render_manifest
from contain.reference import parse_reference
from contain.registry.challenge import parse_challenges
from contain.registry.manifests import check_kind, check_manifest, pair_layers
from contain.registry.platform import parse_platform
from contain.store import TarLimits, extract_tree
from contain.store.compression import Decompressed
from contain.store.ownership import Ownership
from contain.store.tar_header import END_OF_ARCHIVE, padding_bytes
from contain.store.tar_reader import TarReader

Target = Callable[[bytes], None]
LIMITS = TarLimits(entries=200, total_bytes=1 << 20, extended_header_bytes=1 << 16, depth=64)


def read_dockerfile(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        dockerfile = parse_dockerfile(text)
    except ContainError as error:
        str(error)
        return
    assert parse_dockerfile(render_dockerfile(dockerfile)) == dockerfile
    lines = text.count("\n") + 1
    for stage in dockerfile.stages:
        for instruction in (stage.start, *stage.instructions):
            assert 1 <= instruction.span.line <= instruction.span.end_line <= lines
            instruction.span.render()


def check_any_dockerfile(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ContainError):
        dockerfile = parse_dockerfile(text)
        findings = check_dockerfile(dockerfile)
        render_findings(findings, text)
        for finding in findings:
            assert 1 <= finding.span.line <= text.count("\n") + 1


def check_any_script(data: bytes) -> None:
    """The commands of a RUN, in each of its forms."""
    text = data.decode("utf-8", "replace").replace("\r", " ")
    quoted = json.dumps(["sh", "-c", text])
    for run in (text.replace("\n", "\\\n"), quoted, f"<<'END OF IT'\n{text}\nEND OF IT"):
        check_any_dockerfile(f"FROM scratch\nRUN {run}\n".encode("utf-8", "replace"))


def read_words(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    values = {"A": "x y", "B": "", "LONG": "a/b/c.d"}
    for escape in "\\`":
        with contextlib.suppress(ContainError):
            expand(text, values.get, escape=escape)
        with contextlib.suppress(ContainError):
            split_words(text, values.get, escape=escape)
    with contextlib.suppress(ContainError):
        expand_heredoc(text, values.get)
    with contextlib.suppress(ContainError):
        parse_trigger(text)


def read_dockerignore(data: bytes) -> None:
    with contextlib.suppress(ContainError):
        patterns = parse_dockerignore(data.decode("utf-8", "replace"))
        for path in ("a", "a/b", "a/b/c.txt", ".git/config", "é"):
            if patterns.prunes(path):
                assert patterns.ignores(path + "/x")


def read_layer(data: bytes) -> None:
    """The archive as it is, and unpacked if it looks packed."""
    for read in (io.BytesIO(data).read, Decompressed(io.BytesIO(data)).read) if data else ():
        with contextlib.suppress(ContainError):
            reader = TarReader(read, LIMITS)
            for entry in reader:
                size = sum(len(piece) for piece in reader.payload())
                assert size == entry.size_bytes
                assert b"\0" not in entry.path + entry.link
            reader.drain()


def unpack_layer(data: bytes) -> None:
    """Both ways of resolving leave the same, and nothing outside."""
    with _emptied(tempfile.mkdtemp(dir=os.environ.get("CONTAIN_FUZZ_SCRATCH"))) as top:
        (top / "victim").write_bytes(b"outside")
        seen: list[tuple[object, object]] = []
        for walker in (False, True):
            tree = top / str(walker)
            tree.mkdir()
            try:
                found = extract_tree(
                    io.BytesIO(data).read,
                    tree,
                    limits=LIMITS,
                    walker=walker,
                    ownership=Ownership(user_id=os.geteuid(), group_id=os.getegid()),
                )
            except ContainError as error:
                seen.append((type(error), error.code))
            else:
                seen.append((found, _listing(tree)))
        assert seen[0] == seen[1]
        assert sorted(path.name for path in top.iterdir()) == ["False", "True", "victim"]
        assert (top / "victim").read_bytes() == b"outside"
        assert (top / "victim").stat().st_nlink == 1


def _listing(tree: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path.relative_to(tree)), path.lstat().st_mode, path.lstat().st_nlink) for path in tree.rglob("*"))


@contextlib.contextmanager
def _emptied(name: str) -> Iterator[Path]:
    try:
        yield Path(name)
    finally:
        for directory, _, _ in os.walk(name, onerror=None):
            os.chmod(directory, 0o700)
        shutil.rmtree(name)


def read_manifest(data: bytes) -> None:
    with contextlib.suppress(ContainError):
        check_kind(data, media_type="", name="image")
    with contextlib.suppress(ContainError):
        parse_index(data)
    with contextlib.suppress(ContainError):
        manifest = parse_manifest(data)
        assert parse_manifest(render_manifest(manifest)) == manifest
        check_manifest(manifest, name="image")


def read_config(data: bytes) -> None:
    with contextlib.suppress(ContainError):
        config = parse_config(data)
        assert parse_config(render_config(config)) == config
        pair_layers(parse_manifest(MANIFEST), config, name="image")


def read_names(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ContainError):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference
    with contextlib.suppress(ContainError):
        parse_platform(text)
    with contextlib.suppress(ContainError):
        parse_challenges([text])


def read_domain_message(data: bytes) -> None:
    """A DNS query of a container; what is answered is never longer than its limit, and an answer is never answered."""
    from contain.container.network import domain_messages as messages

    try:
        query = messages.parse_query(data)
    except messages.BadMessage:
        assert len(messages.render_refusal(data, messages.FORMAT_ERROR)) <= 12
        return
    rows = [messages.encode_address("192.0.2.1")] * 40
    assert len(messages.render_answer(data, query, rows)) <= max(query.limit_bytes, query.end + 11)
    messages.is_answer(data, data, query.end)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        read_dockerfile,
        check_any_dockerfile,
        check_any_script,
        read_words,
        read_dockerignore,
        read_layer,
        unpack_layer,
        read_manifest,
        read_config,
        read_names,
        read_domain_message,
    )
}

_DIGEST = "sha256:" + "a" * 64
_LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": _DIGEST, "size": 2}
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {**_LAYER, "mediaType": "application/vnd.oci.image.config.v1+json", "platform": {"os": "linux"}},
        "layers": [_LAYER],
        "annotations": {"a": "b"},
    }
).encode()
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin"],
            "Cmd": ["sh"],
            "Entrypoint": [],
            "User": "0",
            "Labels": {"a": "b"},
            "Volumes": {"/v": {}},
            "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["NONE"], "Interval": 1},
            "Shell": ["sh"],
            "OnBuild": ["RUN x"],
        },
        "rootfs": {"type": "layers", "diff_ids": [_DIGEST]},
        "history": [{"created_by": "x", "empty_layer": True}],
    }
).encode()
DOCKERFILE = b"""# escape=`
# check=skip=all;error=true
ARG V=1
FROM --platform=$BUILDPLATFORM debian:${V:-1} AS base
RUN --mount=type=cache,target=/x,id=a apt-get update && `

  apt-get install -y "a b" $(date) | sh -c 'curl x' # c
COPY --from=base --chown=a:b <<A <<-'B' /dst/
$V
A
\tx
B
ONBUILD ADD ["a", "b"]
HEALTHCHECK --interval=1s CMD x
EXPOSE 80/TCP 1-2 127.0.0.1:5:5
ENV a b
LABEL a=b "c d"='e f'
ENTRYPOINT ["a"]
"""
SEEDS: dict[str, tuple[bytes, ...]] = {
    "read_dockerfile": (DOCKERFILE, DOCKERFILE.replace(b"`", b"\\")),
    "check_any_dockerfile": (DOCKERFILE, DOCKERFILE.replace(b"skip=all;", b"").replace(b"`", b"\\")),
    "check_any_script": (
        b"apt-get update && apt-get install -y a b=1 | sh; (date) && bash -c \"$(curl x)\" <(wget y) `z` ${A:-b} 'q' >f 2>&1 # c",
        b"env -u A B=c sudo -E pip install -r x flask==1 || { git clone y; } & npm i",
    ),
    "read_words": (b"${A:-${B:+x}}$B\"a $A\" 'b' \\$ ${LONG##*/} ${LONG%.*} ${LONG//a/b} $1 <<E", b"ONBUILD RUN <<E\nx\nE"),
    "read_dockerignore": (b"\xef\xbb\xbf# c\n*\n!a/**/b?\n/x/[a-z]*\n\\!y\n",),
    "read_manifest": (MANIFEST, MANIFEST.replace(b'"layers"', b'"manifests"')),
    "read_config": (CONFIG,),
    "read_names": (b"docker.io/library/a:1@" + _DIGEST.encode(), b'Bearer realm="x",service=y', b"linux/arm/v7"),
    "read_domain_message": (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x05front\x00\x00\x01\x00\x01",
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x02db\x00\x00\x1c\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00",
    ),
}


# -- documents that are nearly right ----------------------------------------------------------------------------------------


def document_of(recipe: bytes) -> bytes:
    """A manifest or a config with values put in: two bytes for each, where and what. So that a fuzzer meets types, not brackets."""
    document: dict[str, Any] = {**json.loads(CONFIG), **json.loads(MANIFEST), "config": json.loads(CONFIG)["config"]}
    if recipe[:1] < b"\x80":
        document = json.loads(MANIFEST if recipe[:1] < b"\x40" else CONFIG)
    for where, what in zip(recipe[1::2], recipe[2::2], strict=False):
        *above, last = PLACES[where % len(PLACES)].split(".")
        found: Any = document
        for name in above:
            found = found.get(name) if isinstance(found, dict) else None
            found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, dict):
            found[last] = copy.deepcopy(VALUES[what % len(VALUES)])
    return json.dumps(document).encode()


PLACES = (
    *("schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "layers.digest", "layers.size", "Layers"),
    *("layers.mediaType", "layers.annotations", "layers.platform", "layers.platform.os", "layers.Digest", "config.digest"),
    *("config.size", "config.mediaType", "config.Env", "config.Cmd", "config.Entrypoint", "config.User", "config.Labels"),
    *("config.Volumes", "config.ExposedPorts", "config.Healthcheck", "config.Healthcheck.Test", "config.Healthcheck.Interval"),
    *("config.Shell", "config.OnBuild", "config.WorkingDir", "config.StopSignal", "rootfs", "rootfs.diff_ids", "history"),
    *("history.created_by", "history.empty_layer", "os", "architecture", "variant", "created", "author", "annotations.a"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 2.0, 1 << 63, 1e400, "", "x", "a\0b", "\ud800", "é", "A=b", "80/tcp", "=", _DIGEST),
    *([], {}, [None], [1], ["x"], ["A=b"], [["x"]], [{}], [_DIGEST], [_DIGEST, _DIGEST], {"a": "b"}, {"a": 1}, {"a": {}}),
    *(
        {"digest": _DIGEST, "size": 1},
        [{"digest": _DIGEST, "size": 1}],
        {"os": "linux"},
        {"Test": ["CMD", "x"]},
        "sha256:",
        "x" * 300,
    ),
)


def read_documents(recipe: bytes) -> None:
    """See `document_of`."""
    data = document_of(recipe)
    read_manifest(data)
    read_config(data)


TARGETS["read_documents"] = read_documents
SEEDS["read_documents"] = (b"\x00", b"\x41", b"\x81", bytes(range(64, 100)), bytes(range(0, 60, 2)), bytes(range(200, 255)))


# -- archives that are nearly right -----------------------------------------------------------------------------------------


def header(name: bytes, *, flag: bytes, link: bytes, size: int, mode: int = 0o755) -> bytes:
    """A header with a right checksum, whatever else is in it."""
    head = name[:100].ljust(100, b"\0") + b"%07o\0" % mode + b"%07o\0" % 0 * 2 + b"%011o\0" % size + b"%011o\0" % 5
    head += b" " * 8 + flag + link[:100].ljust(100, b"\0") + b"ustar\00000"
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def archive_of(recipe: bytes) -> bytes:
    """An archive from a recipe of three bytes an entry: kind, name, what it links to. So that a fuzzer meets layers, not checksums."""
    parts = []
    for kind, name, target in zip(recipe[::3], recipe[1::3], recipe[2::3], strict=False):
        flag = b"001122556L"[kind % 10 : kind % 10 + 1]
        path, link = NAMES[name % len(NAMES)], NAMES[target % len(NAMES)]
        content = bytes(target % 3) if flag == b"0" else link + b"\0" if flag == b"L" else b""
        parts.append(header(path, flag=flag, link=link, size=len(content)) + content + bytes(padding_bytes(len(content))))
    return b"".join(parts) + END_OF_ARCHIVE


NAMES = (
    *(b"a", b"b", b"a/b", b"b/a", b"a/b/a", b"a/", b"/a", b".", b"/", b"", b"..", b"../victim", b"a/../b", b"./a", b"a//b"),
    *(b"/../victim", b"../../victim", b".wh.a", b".wh.b", b"a/.wh.b", b".wh.", b".wh..", b".wh..wh..opq", b"a/.wh..wh..opq"),
    *(b".wh..wh.plnk", b"b/c", b"c", b"/etc/passwd", b"../False/a", b"/proc/self/root", b"a/" * 40, b"n" * 100),
)


def unpack_recipe(recipe: bytes) -> None:
    """See `archive_of`."""
    unpack_layer(archive_of(recipe))


TARGETS["unpack_recipe"] = unpack_recipe
SEEDS["unpack_recipe"] = (bytes(range(60)), b"\x04\x00\x0b\x00\x02\x01\x02\x01\x00\x06\x00\x00")
SEEDS["unpack_layer"] = tuple(archive_of(recipe) for recipe in SEEDS["unpack_recipe"])
SEEDS["read_layer"] = (
    *SEEDS["unpack_layer"],
    *(
        pack(SEEDS["unpack_layer"][1])
        for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)
    ),
)


# -- a few seconds of each --------------------------------------------------------------------------------------------------


def mutations(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """A seed with pieces of it replaced, doubled, taken out, or cut off."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(seeds)))
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, max(0, len(data) - 1)))
            end = min(len(data), start + draw(st.integers(0, 24)))
            kind = draw(st.integers(0, 4))
            if kind == 0:
                data[start:end] = draw(st.binary(max_size=24))
            elif kind == 1:
                data[start:start] = data[start:end] * draw(st.integers(1, 3))
            elif kind == 2:
                del data[start:end]
            elif kind == 3:
                del data[start:]
            elif data:
                data[start] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)

    return draw_one()


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Random bytes, random text, and mutated seeds."""
    return st.one_of(
        st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")), mutations(SEEDS[name])
    )


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_a_value_or_an_expected_error(name: str) -> None:
    target = TARGETS[name]
    for seed in SEEDS[name]:
        target(seed)

    @settings(
        max_examples=150 if name.startswith("unpack") else 300,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(data=inputs(name))
    def run(data: bytes) -> None:
        target(data)

    run()
