"""``contain images`` and ``history``: Docker's filters, fields and templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contain.cli.listing import history_rows, image_document, image_row, name_rows, parse_filters, parse_time, select_rows
from contain.cli.templates import render_rows, render_template
from contain.errors import NotSupported, UsageError
from contain.oci import Descriptor, Image, ImageConfig, Manifest, Platform
from contain.oci.image import MEDIA_CONFIG, History
from contain.reference import parse_reference
from contain.store import NameRecord, StoredImage

DIGEST = "sha256:" + "ab" * 32


def image(*names: str, seconds: int = 100, **labels: str) -> StoredImage:
    full = tuple(str(parse_reference(name)) for name in names)
    return StoredImage(digest=DIGEST, names=full, size_bytes=1_500_000, created_seconds=seconds, source="build", labels=labels)


def chosen(images: list[StoredImage], *filters: str, reference: str | None = None, **times: Any) -> list[str]:
    rows = select_rows(images, parse_filters(filters, reference), **times)
    return [name.familiar if name else "<none>" for _, name in rows]


def test_every_name_has_a_row_and_an_image_without_names_has_one_too() -> None:
    assert chosen([image("app:1", "app:2"), image()]) == ["app:1", "app:2", "<none>"]


@pytest.mark.parametrize(
    ("value", "names"), [("true", ["<none>"]), ("false", ["app:1"]), ("1", ["<none>"]), ("False", ["app:1"])]
)
def test_dangling_images_are_those_without_names(value: str, names: list[str]) -> None:
    assert chosen([image("app:1"), image()], f"dangling={value}") == names


def test_all_labels_must_be_there() -> None:
    images = [image("a", tier="web", team="x"), image("b", tier="db"), image("c")]
    assert chosen(images, "label=tier") == ["a:latest", "b:latest"]
    assert chosen(images, "label=tier=web") == ["a:latest"]
    assert chosen(images, "label=tier", "label=team") == ["a:latest"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("app", ["app:1", "app:2"]),
        ("app:1", ["app:1"]),
        ("app:*", ["app:1", "app:2"]),
        ("a??", ["app:1", "app:2"]),
        ("*", ["app:1", "app:2"]),
        ("*/app", ["team/app:1"]),
        ("*:1", ["app:1"]),
        ("example.org/*/*", ["example.org/x/app:1"]),
        ("[a-b]pp:[^1]", ["app:2"]),
        ("app.1", []),
        ("nothing", []),
    ],
)
def test_references_are_matched_as_docker_matches_them(pattern: str, names: list[str]) -> None:
    images = [image("app:1", "app:2", "team/app:1", "example.org/x/app:1")]
    assert chosen(images, f"reference={pattern}") == names
    assert chosen(images, reference=pattern) == names


def test_before_and_since_are_about_when_images_came_in() -> None:
    images = [image("new", seconds=300), image("mid", seconds=200), image("old", seconds=100)]
    assert chosen(images, "before=mid", before=[200]) == ["old:latest"]
    assert chosen(images, "since=mid", since=[200]) == ["new:latest"]


@pytest.mark.parametrize("text", ["dangling", "dangling=", "dangling=maybe", "colour=red", "=x", ""])
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filters([text])
    assert caught.value.code == "bad-filter"


def test_a_filter_that_only_docker_has_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="until"):
        parse_filters(["until=24h"])


def test_the_fields_of_a_row() -> None:
    row = image_row(image("example.org/app:1"), parse_reference("example.org/app:1"), now=220, whole=False)
    assert row == {
        "Repository": "example.org/app",
        "Tag": "1",
        "Digest": DIGEST,
        "ID": DIGEST[7:19],
        "CreatedSince": "2 minutes ago",
        "CreatedAt": "1970-01-01 00:01:40 +0000 UTC",
        "Size": "1.5MB",
        "Source": "build",
    }
    assert image_row(image(), None, now=220, whole=True)["ID"] == DIGEST


def made(*steps: History, layers: int = 1, **config: Any) -> Image:
    descriptor = Descriptor(media_type=MEDIA_CONFIG, digest=DIGEST, size=1)
    return Image(
        digest=DIGEST,
        manifest=Manifest(config=descriptor, layers=(descriptor,) * layers),
        config=ImageConfig(history=steps, diff_ids=(DIGEST,) * layers, platform=Platform(), **config),
    )


def test_history_is_newest_first_and_only_real_layers_have_a_size() -> None:
    steps = [
        History(created="2000-01-01T00:00:00Z", created_by="ADD x"),
        History(created_by="ENV A=b", empty_layer=True),
        History(created_by="RUN " + "x" * 60, comment="c"),
    ]
    rows = history_rows(made(*steps, layers=2), [1000, 2000], now=946_684_860, whole=False, human=True)
    assert [(row["ID"], row["Size"], row["CreatedSince"]) for row in rows] == [
        (DIGEST[7:19], "2kB", "N/A"),
        ("<missing>", "0B", "N/A"),
        ("<missing>", "1kB", "About a minute ago"),
    ]
    assert rows[0]["CreatedBy"] == "RUN " + "x" * 40 + "…"
    assert [row["Size"] for row in history_rows(made(*steps, layers=2), [1000, 2000], now=0, whole=True, human=False)] == [
        "2000", "0", "1000",
    ]  # fmt: skip


def test_layers_without_history_have_rows_too() -> None:
    rows = history_rows(made(layers=2), [1000, 2000], now=0, whole=False, human=True)
    assert [row["Size"] for row in rows] == ["2kB", "1kB"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2000-01-01T00:00:00Z", 946_684_800),
        ("2000-01-01T00:00:00.123456789Z", 946_684_800.123456),
        ("2000-01-01T01:00:00+01:00", 946_684_800),
        ("", None),
        ("yesterday", None),
    ],
)
def test_times_of_configs(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


def test_the_history_of_a_name_says_what_is_here() -> None:
    records = [
        NameRecord(digest=None, source="untag", set_seconds=90, present=False),
        NameRecord(digest=DIGEST, source="build", set_seconds=80, present=True),
        NameRecord(digest=DIGEST, source="loaded", set_seconds=40, present=False),
    ]
    rows = name_rows(records, now=100, whole=False)
    assert [(row["Digest"], row["State"]) for row in rows] == [
        ("<none>", ""),
        (DIGEST[7:19], "here"),
        (DIGEST[7:19], "removed"),
    ]
    assert name_rows(records[1:], now=100, whole=True)[0]["State"] == "current"


def test_inspect_has_dockers_keys_and_loses_nothing_of_the_config() -> None:
    written = {"config": {"Cmd": ["sh"], "Unknown": 1}, "docker_version": "20"}
    document = image_document(made(), image("app:1", "example.org/app:1"), written, 100.0)
    assert document["Id"] == DIGEST
    assert document["RepoTags"] == ["app:1", "example.org/app:1"]
    assert document["RepoDigests"] == [f"app@{DIGEST}", f"example.org/app@{DIGEST}"]
    assert document["Config"]["Cmd"] == ["sh"]
    assert document["Config"]["Unknown"] == 1
    assert document["Config"]["Labels"] is None
    assert document["RootFS"] == {"Type": "layers", "Layers": [DIGEST]}
    assert (document["Architecture"], document["Os"], document["Size"]) == ("amd64", "linux", 1_500_000)
    assert {"Created", "Author", "Parent", "DockerVersion", "Metadata"} <= set(document)


# -- templates -------------------------------------------------------------------------------------------------------------------

VALUE = {"Name": "App", "List": ["a", "b"], "Map": {"k.x": 1, "j": True}, "None": None, "Deep": {"In": "side"}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "App"),
        ("{{ .Name }}:{{.Deep.In}}", "App:side"),
        ("{{.List}} {{.Map}}", "[a b] map[j:true k.x:1]"),
        ("{{.None}}", "<no value>"),
        ("{{json .List}}", '["a","b"]'),
        ("{{json .}}", json.dumps(VALUE, separators=(",", ":"))),
        ("{{upper .Name}}{{lower .Name}}", "APPapp"),
        ("{{len .List}}", "2"),
        ('{{join .List ", "}}', "a, b"),
        ("{{index .List 1}}", "b"),
        ('{{index .Map "k.x"}}', "1"),
        ('{{index .Map "missing"}}', ""),
        ("plain", "plain"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render_template(template, VALUE) == text


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{.Missing}}", UsageError),
        ("{{.Name.Deep}}", UsageError),
        ("{{", UsageError),
        ("{{}}", UsageError),
        ("}}", UsageError),
        ("{{index .List 7}}", UsageError),
        ("{{len 3}}", UsageError),
        ('{{define "x"}}{{end}}', NotSupported),
        ("{{upper}}", UsageError),
        ("{{upper $x}}", UsageError),
    ],
)
def test_templates_that_cannot_be(template: str, kind: type[UsageError]) -> None:
    with pytest.raises(kind):
        render_template(template, VALUE)


def test_rows_are_lines_json_or_a_table() -> None:
    rows = [{"ID": "1", "Name": "a"}, {"ID": "22", "Name": "b"}]
    headings = {"ID": "IMAGE ID", "Name": "NAME"}
    assert render_rows("{{.ID}}", rows, headings=headings) == "1\n22\n"
    assert render_rows("{{.ID}}\\t{{.Name}}", rows, headings=headings) == "1\ta\n22\tb\n"
    assert render_rows("json", rows, headings=headings) == '{"ID":"1","Name":"a"}\n{"ID":"22","Name":"b"}\n'
    table = "IMAGE ID   NAME\n1          a\n22         b\n"
    assert render_rows("table", rows, headings=headings) == table
    assert render_rows("table {{.ID}}\\t{{.Name}}", rows, headings=headings) == table
    assert render_rows("table {{upper .Name}}", rows, headings=headings) == "NAME\nA\nB\n"
    assert render_rows("table {{.ID}}", [], headings=headings) == "IMAGE ID\n"


def test_an_image_tells_where_its_layers_are() -> None:
    from pathlib import Path

    def driver(*trees: str) -> object:
        document = image_document(made(), image("app:1"), {}, 0.0, [Path(tree) for tree in trees])
        return document["GraphDriver"]["Data"]

    assert driver("/a/tree", "/b/tree", "/c/tree") == {"LowerDir": "/b/tree:/a/tree", "UpperDir": "/c/tree"}
    assert driver("/a/tree") == {"UpperDir": "/a/tree"}
    assert driver() == {}
