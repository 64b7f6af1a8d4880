"""Which differences most likely explain a failing test: `EnvironmentDiff` x `FailureEvidence` -> ranked causes.

Pure and deterministic. The score of a difference is its dimension's prior (how often such a difference matters at all)
times the evidence that the failure gives for it. Rules are a table (`RULES`); what must be computed from the failure's
text (shifted clocks, reordered lists, names and paths that occur) is a second table of functions (`EVIDENCE`).
Several facts of one cause (LANG, the encoding it leads to) are one cause with several differences.
A ranking is a hint and says why; it proves nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from contain.environment.difference import Difference, EnvironmentDiff, FileDifference, FileGroup
from contain.environment.evidence import RULES, FailureEvidence
from contain.environment.facts import DIMENSIONS, FILES, Value
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelyCause:
    """One cause. ``score`` orders causes of one diff and means nothing else; ``why`` is one line.

    ``differences``: what differs, the most telling first; ``evident``: the failure itself points to it.
    """

    title: str
    before: str
    after: str
    why: str
    score: float
    evident: bool
    differences: tuple[Difference | FileDifference | FileGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    topic: str
    dimension: str
    key: str
    prior: float
    difference: Difference | FileDifference | FileGroup


_VARIABLE_TOPICS = (
    (re.compile(r"LANG|LANGUAGE|LC_\w+|PYTHONIOENCODING|PYTHONUTF8|PYTHONCOERCECLOCALE"), "locale"),
    (re.compile(r"TZ|PYTHONTZPATH|TZDIR"), "time-zone"),
)
_ENCODING_FACTS = re.compile(r"default encoding")
_TZ_PACKAGES = re.compile(r"tzdata(?:-legacy)?|pytz|tzlocal")
_TZ_FILES = re.compile(r"/etc/(?:localtime|timezone)|/usr/share/zoneinfo(?:/.*)?")


def _topic(dimension: str, key: str) -> str:
    if dimension in {"locale", "time-zone"}:
        return dimension
    if dimension in {"environment", "image-environment"}:
        return next((topic for pattern, topic in _VARIABLE_TOPICS if pattern.fullmatch(key)), f"variable {key}")
    if dimension == "interpreter" and _ENCODING_FACTS.search(key):
        return "locale"
    if dimension in {"dpkg", "apk", "python"} and _TZ_PACKAGES.fullmatch(key):
        return "time-zone"
    return f"{dimension}/{key}"


def _is_utf8_mode(difference: Difference) -> bool:
    """Python switches its UTF-8 mode on by itself in the C locale (PEP 540): that follows from the locale."""
    sides = [set(value) if isinstance(value, tuple) else set() for value in (difference.before, difference.after)]
    return difference.key == "flags" and sides[0] ^ sides[1] == {"utf8_mode"}


def _candidates(diff: EnvironmentDiff) -> Iterator[_Candidate]:
    for difference in diff.differences:
        dimension, key = difference.dimension, difference.key
        prior = DIMENSIONS[dimension].prior
        topic = "locale" if _is_utf8_mode(difference) else _topic(dimension, key)
        yield _Candidate(topic=topic, dimension=dimension, key=key, prior=prior, difference=difference)
    for group in diff.changed_groups:
        yield _Candidate(topic=f"altered {group.owner}", dimension=FILES, key=group.owner, prior=0.3, difference=group)
    for found in diff.loose_files:
        topic = "time-zone" if _TZ_FILES.fullmatch(found.path) else f"file {found.path}"
        yield _Candidate(topic=topic, dimension=FILES, key=found.path, prior=DIMENSIONS[FILES].prior, difference=found)


_ABSENT = "(none)"
_Found = tuple[float, str]  # weight, why


def _rule_evidence(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    names = [candidate.topic, f"{candidate.dimension}/{candidate.key}"]
    if isinstance(candidate.difference, FileDifference):
        names.extend(f"files/{aspect}" for aspect in candidate.difference.aspects)
    elif isinstance(candidate.difference, FileGroup):
        names.extend(f"files/{aspect}" for found in candidate.difference.differences for aspect in found.aspects)
    for when, targets, rule in _COMPILED:
        if any(targets.fullmatch(name) for name in names):
            match = when.search(evidence.summary)
            if match is not None:
                yield rule.weight, rule.why.format(match=match.group())


_COMPILED = tuple(
    (re.compile(rule.when), re.compile("|".join(f"(?:{target})" for target in rule.targets)), rule) for rule in RULES
)


_TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?|(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?![\d:])")
_DATETIMES = re.compile(r"datetime\.datetime\((\d{4}(?:, \d{1,2}){2,6})")
_SECONDS = re.compile(r"(?<![\d.])\d{9,11}(?:\.0)?(?![\d.])")
_STRUCT_HOURS = re.compile(r"\b(?:tm_hour|hour)\s*=\s*(\d{1,2})\b")
_BARE_DATES = re.compile(r"\d{4}-\d\d-\d\d")


def _moments(text: str) -> list[datetime]:
    found = []
    for match in _TIMES.finditer(text):
        shown = match.group().replace("T", " ")
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"):
            try:
                found.append(datetime.strptime(shown, form))
                break
            except ValueError:
                continue
    for match in _DATETIMES.finditer(text):
        numbers = [int(number) for number in match.group(1).split(", ")]
        try:
            found.append(datetime(*numbers[:6]))  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue
    return found[:60]


def _whole_hours(distance_seconds: float) -> bool:
    """Whether a distance is one that two time zones can have: quarter hours, up to 26 hours (IANA offsets -12 to +14)."""
    return 0 < abs(distance_seconds) <= 26 * 3600 and abs(distance_seconds) % 900 == 0


def _shifted_times(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    if candidate.topic != "time-zone":
        return
    moments = _moments(evidence.summary)
    seconds = [float(match.group()) for match in _SECONDS.finditer(evidence.summary)][:60]
    hours = [int(match.group(1)) for match in _STRUCT_HOURS.finditer(evidence.summary)]
    for index, first in enumerate(moments):
        for second in moments[index + 1 :]:
            distance = second - first
            if _whole_hours(distance / timedelta(seconds=1)):
                yield 8, f"two times in the failure are {_hours(distance)} apart, as in two time zones"
                return
    for index, start in enumerate(seconds):
        if any(_whole_hours(other - start) for other in seconds[index + 1 :]):
            yield 8, "two moments in the failure are whole quarter hours apart, as in two time zones"
            return
    if len(set(hours)) > 1:
        yield 7, "the failure shows two different hours"
    elif moments or len(set(_BARE_DATES.findall(evidence.summary))) > 1:
        yield 3, "the failure shows dates or times of day"


def _hours(distance: timedelta) -> str:
    minutes = abs(int(distance.total_seconds())) // 60
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


_LISTS = re.compile(r"\[[^\[\]]{3,2000}\]")


def _reordered(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    targets = {"locale": 6.0, "interpreter/hash seed": 5.0, "variable PYTHONHASHSEED": 5.0}
    if candidate.topic not in targets:
        return
    lists: list[list[str]] = []
    for match in list(_LISTS.finditer(evidence.summary))[:40]:
        try:
            value = ast.literal_eval(match.group())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        lists.append([repr(item) for item in value])
    for index, first in enumerate(lists):
        for second in lists[index + 1 :]:
            if len(first) > 1 and first != second and sorted(first) == sorted(second):
                yield targets[candidate.topic], "two lists in the failure differ in their order only"
                return


_NO_MODULE = re.compile(
    r"No module named '([\w.]+)'"
    r"|cannot import name '\w+' from (?:partially initialized module )?'([\w.]+)'"
    r"|module '([\w.]+)' has no attribute"
)


def _named_module(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    if candidate.dimension not in {"python", "importable", "dpkg", "apk"}:
        return
    name = re.sub(r"^(?:python3?-|py3-)", "", candidate.key) if candidate.dimension in {"dpkg", "apk"} else candidate.key
    for match in _NO_MODULE.finditer(evidence.said):
        module = next(group for group in match.groups() if group)
        if _same_name(module.partition(".")[0], name):
            yield 10, f"{match.group()}"
            return


# Import name -> distribution, where they are not spelt alike (the well-known ones).
_DISTRIBUTIONS: Mapping[str, str] = {
    "yaml": "pyyaml", "pil": "pillow", "cv2": "opencv-python", "bs4": "beautifulsoup4", "dateutil": "python-dateutil",
    "sklearn": "scikit-learn", "attr": "attrs", "jwt": "pyjwt", "crypto": "pycryptodome", "dotenv": "python-dotenv",
    "openssl": "pyopenssl", "pkg-resources": "setuptools", "zmq": "pyzmq", "git": "gitpython", "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient", "serial": "pyserial", "usb": "pyusb", "magic": "python-magic", "google": "protobuf",
}  # fmt: skip


def _same_name(module: str, distribution: str) -> bool:
    module, distribution = (re.sub(r"[-_.]+", "-", name).lower() for name in (module, distribution))
    return module == distribution or _DISTRIBUTIONS.get(module) == distribution


_SITE = re.compile(r"/(?:site|dist)-packages/([\w.-]+?)(?:\.py)?(?:/|$)")


def _in_traceback(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    if isinstance(candidate.difference, FileGroup):
        for found in candidate.difference.differences:
            if found.path in evidence.traceback_paths:
                yield 9, f"{found.path} is in the traceback"
                return
    elif isinstance(candidate.difference, FileDifference):
        path = candidate.difference.path
        if any(shown == path or shown.startswith(path + "/") for shown in evidence.traceback_paths):
            yield 9, f"{path} is in the traceback"
    elif candidate.dimension in {"python", "importable"}:
        for path in evidence.traceback_paths:
            match = _SITE.search(path)
            if match and _same_name(match.group(1), candidate.key):
                yield 6, f"the traceback goes through {match.group(1)}"
                return


_QUOTED_PATHS = re.compile(r"/[\w.@+~-]+(?:/[\w.@+~-]+)+")


def _mentioned(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    """The name of what differs stands in the failure's own words."""
    key = candidate.key
    if isinstance(candidate.difference, FileDifference):
        path = candidate.difference.path
        if re.search(rf"{re.escape(path)}(?![\w-])", evidence.said):
            yield 8, f"the failure names {path}"
        elif any(path == shown or path.startswith(shown + "/") for shown in _QUOTED_PATHS.findall(evidence.summary)):
            yield 6, f"the failure names a directory that holds {path}"
    elif isinstance(candidate.difference, FileGroup):
        for found in candidate.difference.differences:
            if found.path in evidence.summary:
                yield 8, f"the failure names {found.path}"
                return
    elif candidate.dimension in {"environment", "image-environment", "locale", "time-zone"} and re.fullmatch(
        r"[A-Za-z_]\w+", key
    ):
        if re.search(rf"KeyError: ['\"]{re.escape(key)}['\"]", evidence.said):
            yield 10, f"the test asked for the variable {key}"
        elif len(key) > 1 and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", evidence.said):
            yield 6, f"the failure names the variable {key}"
    elif candidate.dimension in {"python", "importable", "npm", "dpkg", "apk"} and len(key) > 2 and not key.startswith("("):
        command = re.search(
            rf"(?:No such file or directory: |command not found: |exec: |sh: \d+: )['\"]?{re.escape(key)}['\":]", evidence.said
        )
        if command or re.search(rf"{re.escape(key)}: (?:command )?not found", evidence.said):
            yield 9, f"the command {key} is missing"
        elif re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", evidence.summary):
            yield 4, f"the failure names {key}"


def _values_shown(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    """Both values, or the value of one side, stand in the failure: the test looks at this very fact."""
    if not isinstance(candidate.difference, Difference):
        return
    shown = [_occurs(value, evidence.summary) for value in (candidate.difference.before, candidate.difference.after)]
    if all(shown):
        yield (
            7,
            f"the failure shows both values, {_short(candidate.difference.before)} and {_short(candidate.difference.after)}",
        )
    elif any(shown):
        value = candidate.difference.before if shown[0] else candidate.difference.after
        yield 1.5, f"the failure shows the value {_short(value)}"


def _occurs(value: Value | None, text: str) -> bool:
    if not isinstance(value, str) or len(value) < 3 or (value.isalpha() and len(value) < 5):
        return False
    return re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.]\w)", text) is not None


def _short(value: Value | None) -> str:
    text = value if isinstance(value, str) else ", ".join(value or ())
    return text if len(text) <= 30 else text[:29] + "…"


def _imported(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    if candidate.dimension in {"python", "importable"}:
        for module in evidence.modules:
            if "." not in module and _same_name(module, candidate.key):
                yield 1.5, f"the failing process had imported {module}"
                return


def _test_name(evidence: FailureEvidence, candidate: _Candidate) -> Iterator[_Found]:
    """Words of the test's own name: a weak hint, for failures that say nothing else."""
    words = set(re.split(r"[^a-z0-9]+", evidence.test.lower()))
    hints = {
        "locale": {"locale", "unicode", "utf8", "encoding", "umlaut", "umlauts", "sort", "collate", "accents", "ascii"},
        "time-zone": {"timezone", "tz", "time", "date", "hour", "clock", "utc", "localtime", "midnight", "dst"},
        "process/umask": {"umask", "mode", "permissions"},
        "cpu/count": {"cpu", "workers", "parallel"},
    }
    common = words & hints.get(candidate.topic, set())
    if common:
        yield 1, f"the test's name speaks of {min(common)}"
    elif candidate.dimension in {"python", "importable"} and candidate.key in words:
        yield 2, f"the test's name holds {candidate.key}"


EVIDENCE: tuple[Callable[[FailureEvidence, _Candidate], Iterator[_Found]], ...] = (
    _rule_evidence,
    _shifted_times,
    _reordered,
    _named_module,
    _in_traceback,
    _mentioned,
    _values_shown,
    _imported,
    _test_name,
)
"""What a failure can say for a difference, each as (weight, why)."""


def explain(diff: EnvironmentDiff, evidence: FailureEvidence, *, limit: int = 5) -> tuple[LikelyCause, ...]:
    """The most likely causes of a failure, best first, at most ``limit``.

    Where the failure points to nothing that differs, the differences that matter most often are given, with
    ``evident=False`` and a ``why`` that says so.
    """
    topics: dict[str, list[tuple[float, str, _Candidate]]] = {}
    for candidate in _candidates(diff):
        found = sorted(
            (item for collect in EVIDENCE for item in collect(evidence, candidate)), key=lambda item: (-item[0], item[1])
        )
        weight = sum(item[0] / (index + 1) for index, item in enumerate(found))  # the second reason counts half, and so on
        why = found[0][1] if found else ""
        topics.setdefault(candidate.topic, []).append((candidate.prior * weight, why, candidate))
    ranked = [_cause(members) for members in topics.values()]
    evident = [cause for cause in ranked if cause.evident]
    chosen = evident or [_unproven(cause) for cause in ranked]
    chosen.sort(key=lambda cause: (-cause.score, cause.title))
    return tuple(chosen[: limit if evident else min(3, limit)])


def _cause(members: Sequence[tuple[float, str, _Candidate]]) -> LikelyCause:
    # Within one topic the setting comes before what follows from it: LANG before "effective".
    ordered = sorted(members, key=lambda member: (-member[0], *_telling(member[2])))
    score, why, head = ordered[0]
    title, before, after = _headline(head)
    settings = [member[2] for member in sorted(members, key=lambda member: _telling(member[2]))]
    if head.topic in {"locale", "time-zone"}:
        title, before, after = _headline(settings[0])
        before, after = (_with_effect(text, settings, side) for side, text in enumerate((before, after)))
        ordered = sorted(members, key=lambda member: _telling(member[2]))
    return LikelyCause(
        title=title,
        before=before,
        after=after,
        why=why,
        score=score or head.prior / 100,
        evident=score > 0,
        differences=tuple(member[2].difference for member in ordered),
    )


def _with_effect(text: str, members: Sequence[_Candidate], side: int) -> str:
    """An unset variable says little: what holds instead is said beside it."""
    for member in members:
        if text == _ABSENT and member.key in {"effective", "names"} and isinstance(member.difference, Difference):
            return f"{_ABSENT}, so {_side((member.difference.before, member.difference.after)[side])}"
    return text


_SETTINGS = ("LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8", "LANG", "LC_CTYPE", "TZ", "/etc/localtime", "/etc/timezone")


def _telling(candidate: _Candidate) -> tuple[int, int, str]:
    """Order within a topic: variables as set, then files and packages, then what follows from them."""
    if candidate.key in _SETTINGS:
        return (0, _SETTINGS.index(candidate.key), candidate.key)
    variable = re.fullmatch(r"[A-Z][A-Z_]+", candidate.key) is not None
    return (1 if variable else 2 if candidate.dimension not in {"locale", "time-zone", "interpreter"} else 3, 0, candidate.key)


def _unproven(cause: LikelyCause) -> LikelyCause:
    return LikelyCause(
        title=cause.title,
        before=cause.before,
        after=cause.after,
        why="nothing in the failure points to a difference; this kind matters most often",
        score=cause.score,
        evident=False,
        differences=cause.differences,
    )


def _headline(candidate: _Candidate) -> tuple[str, str, str]:
    difference = candidate.difference
    if isinstance(difference, Difference):
        noun = {
            "dpkg": "package",
            "apk": "package",
            "python": "Python package",
            "npm": "npm package",
            "importable": "Python package",
        }
        label = noun.get(difference.dimension, difference.dimension)
        if difference.dimension in {"environment", "image-environment"}:
            label = "variable"
        return f"{label} {difference.key}", _side(difference.before), _side(difference.after)
    if isinstance(difference, FileGroup):
        return f"altered files of {difference.owner}", "", f"{len(difference.differences)} files differ"
    if difference.change == "changed":
        return (
            f"file {difference.path}",
            "",
            ", ".join(difference.aspects) + " differ" + ("s" if len(difference.aspects) == 1 else ""),
        )
    present, absent = "there", "not there"
    return (
        f"file {difference.path}",
        absent if difference.before is None else present,
        absent if difference.after is None else present,
    )


def _side(value: Value | None) -> str:
    if value is None:
        return _ABSENT
    return value if isinstance(value, str) else ", ".join(value)
