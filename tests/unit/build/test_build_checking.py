"""The build checks of a whole build: what stops it, what it says, what ``--check`` reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.build.checking import check
from contain.build.execute import build
from contain.build.request import BuildRequest
from contain.errors import NotFound, UsageError
from contain.oci import ImageConfig, Platform
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store


class _Told(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _request(context: Path, text: str, **build_args: str) -> BuildRequest:
    return BuildRequest(context=context, dockerfile_text=text, build_args=build_args)


COPYING = "FROM scratch\nCOPY <<EOF /a\nx\nEOF\nCMD x\n"


def test_a_build_warns_when_it_has_carried_out_a_step_and_not_when_all_were_cached(store: Store, context: Path) -> None:
    first, second = _Told(), _Told()
    build(_request(context, COPYING), store=store, progress=first)
    build(_request(context, COPYING), store=store, progress=second)
    expected = "Dockerfile:5: CMD is text for a shell, which receives the signals in its place (JSONArgsRecommended)"
    assert (first.warnings, second.warnings) == ([expected], [])


def test_a_build_of_cached_steps_that_makes_another_image_warns(store: Store, context: Path) -> None:
    build(_request(context, COPYING), store=store, progress=_Told())
    told = _Told()
    build(_request(context, COPYING + "MAINTAINER a\n"), store=store, progress=told)
    assert [text.split(": ")[0] for text in told.warnings] == ["Dockerfile:5", "Dockerfile:6"]


def test_a_build_that_fails_later_has_warned(store: Store, context: Path) -> None:
    told = _Told()
    with pytest.raises(NotFound):
        build(_request(context, COPYING + "COPY missing /b\n"), store=store, progress=told)
    assert len(told.warnings) == 1


def test_a_file_that_forbids_warnings_is_refused_before_its_first_step(store: Store, context: Path) -> None:
    with pytest.raises(UsageError) as caught:
        build(_request(context, "# check=error=true\n" + COPYING), store=store, progress=Silent())
    assert caught.value.code == "check-failed"
    assert caught.value.span is not None
    assert caught.value.span.line == 6
    assert store.images() == ()


def test_notes_do_not_stop_a_build_and_waived_warnings_neither(store: Store, context: Path) -> None:
    text = "# check=skip=JSONArgsRecommended;error=true\n" + COPYING + "ADD https://example.invalid/x /x\n"
    report = check(_request(context, text), store=store)
    assert [finding.rule.name for finding in report.findings] == ["UnverifiedAdd"]
    told = _Told()
    build(_request(context, "# check=skip=JSONArgsRecommended;error=true\n" + COPYING), store=store, progress=told)
    assert told.warnings == []


def test_the_build_argument_takes_the_place_of_the_directive(store: Store, context: Path) -> None:
    told = _Told()
    request = _request(context, "# check=error=true\n" + COPYING, BUILDKIT_DOCKERFILE_CHECK="skip=all")
    build(request, store=store, progress=told)
    assert told.warnings == []
    with pytest.raises(UsageError, match="no option of the build checks"):
        build(_request(context, COPYING, BUILDKIT_DOCKERFILE_CHECK="nonsense"), store=store, progress=told)


def test_what_stands_before_a_mistake_is_checked(store: Store, context: Path) -> None:
    text = "\nFROM scratch AS BadStageName\nMAINTAINER me@example.org\nBADCMD\n"
    report = check(_request(context, text), store=store)
    assert [(finding.rule.name, finding.span.line) for finding in report.warnings] == [
        ("StageNameCasing", 2),
        ("MaintainerDeprecated", 3),
    ]
    assert report.error is not None
    assert report.error.code == "unknown-instruction"
    assert report.error.span is not None
    assert report.error.span.line == 4


def test_a_mistake_in_the_first_line_leaves_nothing_to_check(store: Store, context: Path) -> None:
    report = check(_request(context, "NONSENSE\nFROM scratch\n"), store=store)
    assert report.findings == ()
    assert report.error is not None


def test_what_a_build_would_say_before_its_first_step_is_reported(store: Store, context: Path) -> None:
    report = check(_request(context, "FROM scratch\nCOPY --from=9 /a /b\n"), store=store)
    assert report.error is not None
    assert report.error.code == "stage-not-found"
    unused = check(_request(context, "FROM scratch AS a\nCOPY --from=9 /a /b\nFROM scratch\n"), store=store)
    assert unused.error is not None


def test_a_base_in_the_store_is_known_and_another_is_named_as_unknown(store: Store, context: Path) -> None:
    config = ImageConfig(platform=Platform(architecture="riscv64"), environment=(("SOURCE", "a"),))
    store.tag(parse_reference("app:1"), store.put_image(config, ()).digest, source="test")
    report = check(_request(context, "FROM app:1\nCOPY $SOURCE $MISSING /x/\nFROM other\nCOPY $MISSING /x\n"), store=store)
    assert [(finding.rule.name, finding.span.line) for finding in report.warnings] == [
        ("InvalidBaseImagePlatform", 1),
        ("UndefinedVar", 2),
    ]
    assert [(base.name, base.span.line) for base in report.unknown_bases] == [("other", 3)]


def test_the_ignore_file_of_the_context_counts(store: Store, context: Path) -> None:
    (context / ".dockerignore").write_text("secret\n")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY secret /\n")
    report = check(BuildRequest(context=context), store=store)
    assert [finding.rule.name for finding in report.warnings] == ["CopyIgnoredFile"]
