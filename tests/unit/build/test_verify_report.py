from __future__ import annotations

import json
from pathlib import Path

from contain.build.verify.differences import Change, PathDifference
from contain.build.verify.report import (
    StepDifferences,
    Suspicion,
    Varied,
    Verification,
    render_verification,
    render_verification_json,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "verify"
FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64
VARIED = (Varied(what="umask", first="0022", second="0077"), Varied(what="CPUs", first="8", second="1"))
SAME = ("the kernel",)


def difference(path: str, cause: str, change: Change = Change.CONTENT, hint: str = "") -> PathDifference:
    return PathDifference(path=path, change=change, cause=cause, hint=hint)


DIFFERS = Verification(
    digests=(FIRST, SECOND),
    steps=(
        StepDifferences(
            stage="build",
            file="Dockerfile",
            line=3,
            text="RUN date > /built && mktemp",
            against="",
            differences=(
                difference("/built", "timestamp", hint="line 1: '12:00:01' / '12:00:02'"),
                difference("/tmp/tmp.AbCdEfGh", "random-name", Change.ONLY_FIRST),
                difference("/usr/lib/program", "unknown", hint="byte 0x40: 00 '.' / 01 '.'"),
            ),
        ),
        StepDifferences(
            stage="build",
            file="Dockerfile",
            line=4,
            text="RUN " + "long " * 40,
            against="the cache's layer of 2026-11-20 10:00:00 UTC",
            differences=tuple(difference(f"/files/{number:02}", "mtime", Change.TIME, "1 / 2") for number in range(25)),
        ),
        StepDifferences(
            stage="build",
            file="Dockerfile",
            line=0,
            text="RUN triggered",
            against="",
            differences=(difference("/built", "follows"), difference("/m", "ownership-or-mode", Change.MODE, "0600 / 0644")),
        ),
    ),
    varied=VARIED,
    same=SAME,
    cached_steps=1,
    suspicions=(Suspicion(file="Dockerfile", line=7, path="/day", found="2026-11-21"),),
)


def test_differences_are_shown_with_line_cause_and_remedy() -> None:
    assert render_verification(DIFFERS) == (GOLDEN / "differs.txt").read_text()


def test_a_reproducible_build_is_shown_with_what_was_varied() -> None:
    found = Verification(digests=(FIRST, FIRST), steps=(), varied=VARIED, same=SAME)
    assert found.reproducible
    assert render_verification(found) == (GOLDEN / "reproducible.txt").read_text()


def test_the_json_form_holds_everything() -> None:
    text = render_verification_json(DIFFERS)
    assert text == (GOLDEN / "differs.json").read_text()
    assert len(json.loads(text)["steps"][1]["differences"]) == 25


def test_equal_images_with_another_layer_in_the_cache_are_not_called_reproducible() -> None:
    found = Verification(digests=(FIRST, FIRST), steps=DIFFERS.steps[1:2], varied=(), same=())
    assert not found.reproducible
    assert render_verification(found).startswith(f"DIFFERS {FIRST}\n")


def test_images_that_differ_in_no_layer_say_so() -> None:
    found = Verification(digests=(FIRST, SECOND), steps=(), varied=(), same=())
    assert "configuration differs" in render_verification(found)
