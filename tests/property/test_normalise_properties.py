from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from contain.build.normalise import CAUSES
from contain.build.normalise.facts import FileFacts, Source, StepFacts
from contain.build.normalise.rewriters import REWRITERS
from contain.build.verify.differences import attribute

NOW = 1_795_000_000
STEP = StepFacts(epoch_seconds=946_684_800, started_seconds=NOW, ended_seconds=NOW + 60, identity="sha256:base")
PYC_HEADS = [struct.pack("<H", magic) + b"\r\n" for magic in (62211, 3379, 3390, 3495, 240)]
HEADS = [
    b"",
    b"DIRC\0\0\0\2\0\0\0\1",
    b"DIRC\0\0\0\4\0\0\0\1",
    b"\xfe\xed\xfe\xed\0\0\0\2\0\0\0\1",
    b"root:!:20775:0:99999:7:::\n",
    *PYC_HEADS,
]
contents = st.builds(lambda head, rest: head + rest, st.sampled_from(HEADS), st.binary(max_size=700))
names = st.sampled_from(sorted(REWRITERS))
sources = st.none() | st.builds(
    Source,
    mtime_seconds=st.integers(0, 1 << 40),
    final_mtime_seconds=st.integers(0, STEP.epoch_seconds),
    size_bytes=st.just(1),
)


def facts(previous: bytes | None, source: Source | None) -> FileFacts:
    return FileFacts(
        path="m/__pycache__/a.cpython-311.pyc", step=STEP, previous=lambda: previous, find_source=lambda path: source
    )


@given(name=names, data=contents, previous=st.none() | contents, source=sources)
def test_whatever_a_file_holds_rewriting_it_raises_nothing_and_twice_is_as_once(
    name: str, data: bytes, previous: bytes | None, source: Source | None
) -> None:
    rewrite = REWRITERS[name]
    once = rewrite(data, facts(previous, source))
    if once is not None:
        # What was rewritten has its final times: the source's, too.
        final = source and Source(
            mtime_seconds=source.final_mtime_seconds, final_mtime_seconds=source.final_mtime_seconds, size_bytes=1
        )
        assert rewrite(once, facts(previous, final)) in (None, once)


@given(
    first=contents,
    second=contents,
    path=st.sampled_from(["a", "etc/shadow", "a.pyc", "p/.git/logs/HEAD", "a.gz", "var/lib/dpkg/status"]),
)
def test_whatever_differs_gets_a_cause_that_exists(path: str, first: bytes, second: bytes) -> None:
    cause, hint = attribute(path, first, second)
    assert cause in CAUSES
    assert hint.isprintable()
