"""What BuildKit's own tests promise of ARG, ENV, USER, CMD, ENTRYPOINT, EXPOSE, LABEL, ONBUILD, platforms, history and errors.

A table: a Dockerfile, files, what comes out. The name of a case is that of BuildKit's test
(``frontend/dockerfile/dockerfile_*_test.go`` and ``errors_test.go``), which says the same in Go.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.run.options import RunOptions, SshSource
from contain.errors import BuildStepFailed, ContainError
from contain.progress import Silent
from contain.reference import parse_reference
from contain.registry.platform import host_platform, parse_platform
from contain.store import RootView, Store

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
HOST = BuildHost(platform=host_platform())
PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
GROUP = "root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nnobody:x:65534:\n"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Case:
    """``shows``: path to text. ``absent``: paths that must not be. ``config``: field of the image's config to its value.

    ``fails``: a piece of the error. ``line``: where in the Dockerfile the error points; with either, nothing else counts.
    """

    name: str
    dockerfile: str
    files: Mapping[str, str] = field(default_factory=dict)
    shows: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    platform: str | None = None
    fails: str = ""
    line: int = 0


def same_ids(*users: str, found: str) -> str:
    shown = "$(id -u):$(id -g)/$(id -un):$(id -gn)/$(id -G):$(id -Gn)"
    return "".join(f"USER {user}\nRUN [ \"{shown}\" = '{found}' ]\n" for user in users)


IN_GROUP = "1001:1002/dockerio:supplementary/1002:supplementary"
USERS = (
    "FROM busybox AS base\nRUN mkdir -m 0777 /out\nRUN id -un > /out/rootuser\n"
    "RUN [ \"$(id -u):$(id -g)/$(id -un):$(id -gn)\" = '0:0/root:root' ]\n"
    "USER root\nRUN [ \"$(id -G):$(id -Gn)\" = '0 10:root wheel' ]\n"
    "RUN echo 'dockerio:x:1001:1001::/bin:/bin/false' >> /etc/passwd && echo 'dockerio:x:1001:' >> /etc/group\n"
    + same_ids("dockerio", found="1001:1001/dockerio:dockerio/1001:dockerio")
    + same_ids("root", found="0:0/root:root/0 10:root wheel")
    + "RUN echo 'supplementary:x:1002:dockerio' >> /etc/group\n"
    + same_ids("dockerio", "1001", found="1001:1001/dockerio:dockerio/1001 1002:dockerio supplementary")
    + same_ids(
        *("dockerio:dockerio", "1001:dockerio", "dockerio:1001", "1001:1001"),
        found="1001:1001/dockerio:dockerio/1001:dockerio",
    )
    + same_ids("dockerio:supplementary", "dockerio:1002", "1001:supplementary", "1001:1002", found=IN_GROUP)
    + "USER 1042:1043\nRUN [ \"$(id -u):$(id -g)/$(id -G)\" = '1042:1043/1043' ]\n"
    "USER daemon\nRUN id -un > /out/daemonuser\nFROM scratch\nCOPY --from=base /out /\nUSER nobody\n"
)
DEFAULTS = (
    "ARG image=idlebox\nFROM busy${image#idle} AS build\nARG my_arg\n"
    'ENV my_arg "my_arg=${my_arg:-def_val}"\nENV my_trimmed_arg "${my_arg%%e*}"\nCOPY myscript.sh myscript.sh\n'
    "RUN sh ./myscript.sh $my_arg $my_trimmed_arg\nFROM scratch\nCOPY --from=build /out /out\n"
)
TARGET_STAGE = (
    'FROM alpine AS base\nWORKDIR /out\nRUN echo -n "value:$TARGETSTAGE" > /out/first\nARG TARGETSTAGE\n'
    'RUN echo -n "value:$TARGETSTAGE" > /out/second\nFROM scratch AS foo\nCOPY --from=base /out/ /\n'
    "FROM scratch\nCOPY --from=base /out/ /\n"
)
STAGES_BY_SYSTEM = (
    "FROM scratch AS stage-linux\nCOPY foo forlinux\nFROM scratch AS stage-darwin\nCOPY bar fordarwin\nFROM stage-$TARGETOS\n"
)
BY_ARCHITECTURE = (
    "FROM scratch\nARG TARGETARCH\nARG TARGETPLATFORM\nLABEL target=$TARGETPLATFORM\nCOPY arch-$TARGETARCH whoami\n"
)
CASES = [
    # -- ARG and ENV
    Case(name="testGlobalArg", dockerfile="ARG tag=nosuchtag\nFROM busybox:${tag}\n", arguments={"tag": "latest"}),
    Case(
        name="testGlobalArgErrors/missing",
        dockerfile='ARG FOO=${FOO:?"custom error"}\nFROM busybox\n',
        fails="FOO: custom error",
        line=1,
    ),
    Case(
        name="testGlobalArgErrors/given",
        dockerfile='ARG FOO=${FOO:?"custom error"}\nFROM busybox\n',
        arguments={"FOO": "bar"},
    ),
    Case(
        name="testArgDefaultExpansion/missing",
        dockerfile='FROM scratch\nARG FOO\nARG BAR=${FOO:?"foo missing"}\n',
        fails="FOO: foo missing",
        line=3,
    ),
    Case(
        name="testArgDefaultExpansion/not-needed",
        dockerfile='FROM scratch\nARG FOO\nARG BAR=${FOO:?"foo missing"}\n',
        arguments={"BAR": "123"},
    ),
    Case(
        name="testMultiArgs/run",
        dockerfile='ARG a1="foo bar" a2=box\nARG a3="$a2-foo"\nFROM busy$a2 AS build\nARG a3 a4="123 456" a1\n'
        'RUN echo -n "$a1:$a3:$a4" > /out\nFROM scratch\nCOPY --from=build /out .\n',
        shows={"out": "foo bar:box-foo:123 456"},
    ),
    Case(
        name="testQuotedMetaArgs/run",
        dockerfile='ARG a1="box"\nARG a2="$a1-foo"\nFROM busy$a1 AS build\nARG a2\nARG a3="bar-$a2"\n'
        "RUN echo -n $a3 > /out\nFROM scratch\nCOPY --from=build /out .\n",
        shows={"out": "bar-box-foo"},
    ),
    *(
        Case(
            name=f"testTargetStageNameArg/run/{name}",
            dockerfile=TARGET_STAGE + more,
            target=target,
            shows={"first": "value:", "second": f"value:{value}"},
        )
        for name, more, target, value in (
            ("target", "", "foo", "foo"),
            ("default", "", None, "default"),
            ("named", "FROM scratch AS final\nCOPY --from=base /out/ /\n", None, "final"),
        )
    ),
    *(
        Case(
            name=f"testDefaultEnvWithArgs/{name}",
            dockerfile=DEFAULTS,
            files={"myscript.sh": "echo -n $my_arg $* > /out\n"},
            arguments=arguments,
            shows={"out": shown},
        )
        for name, arguments, shown in (
            ("nil", {}, "my_arg=def_val my_arg=def_val my_arg=d"),
            ("empty", {"my_arg": ""}, "my_arg=def_val my_arg=def_val my_arg=d"),
            ("override", {"my_arg": "override"}, "my_arg=override my_arg=override my_arg=ov"),
        )
    ),
    Case(
        name="testEmptyStringArgInEnv",
        dockerfile="FROM busybox AS build\nARG FOO\nARG BAR=\nRUN env | grep -E '^(FOO|BAR)=' > env.txt\n"
        "FROM scratch\nCOPY --from=build env.txt .\n",
        shows={"env.txt": "BAR=\n"},
    ),
    Case(
        name="testEnvEmptyFormatting",
        dockerfile="FROM busybox AS build\nENV myenv foo%sbar\nRUN [ \"$myenv\" = 'foo%sbar' ]\n",
        config={"environment": (("PATH", PATH), ("myenv", "foo%sbar"))},
    ),
    # -- what a container starts with
    Case(
        name="testExposeExpansion",
        dockerfile='FROM scratch\nARG PORTS="3000 4000/udp"\nEXPOSE $PORTS\nEXPOSE 5000\n',
        config={"exposed_ports": ("3000/tcp", "4000/udp", "5000/tcp")},
    ),
    Case(
        name="testLabels",
        dockerfile="FROM scratch\nLABEL foo=bar\n",
        labels={"bar": "baz"},
        config={"labels": {"foo": "bar", "bar": "baz"}},
    ),
    Case(name="testUser", dockerfile=USERS, shows={"rootuser": "root\n", "daemonuser": "daemon\n"}, config={"user": "nobody"}),
    Case(
        name="testUserAdditionalGids",
        dockerfile='FROM busybox\nSHELL ["/bin/sh", "-euxc"]\n'
        'RUN [ "$(id)" = "uid=0(root) gid=0(root) groups=0(root),10(wheel)" ]\n'
        'USER 1234\nRUN [ "$(id)" = "uid=1234 gid=0(root) groups=0(root)" ]\n'
        'USER 1234:1234\nRUN [ "$(id)" = "uid=1234 gid=1234 groups=1234" ]\n'
        'USER daemon\nRUN [ "$(id)" = "uid=1(daemon) gid=1(daemon) groups=1(daemon)" ]\n',
    ),
    Case(
        name="testDockerfileDirs/run",
        dockerfile="FROM busybox\nCOPY foo /foo2\nCOPY foo /\nRUN echo -n bar > foo3\nRUN test -f foo\n"
        "RUN cmp -s foo foo2\nRUN cmp -s foo foo3\n",
        files={"foo": "bar"},
    ),
    Case(
        name="testDefaultShellAndPath/linux",
        dockerfile="FROM scratch\nENTRYPOINT foo bar\nCOPY Dockerfile .\n",
        config={"entrypoint": ("/bin/sh", "-c", "foo bar"), "environment": (("PATH", PATH),)},
    ),
    Case(
        name="testDefaultShellAndPath/windows",
        dockerfile="FROM scratch\nENTRYPOINT foo bar\nCOPY Dockerfile .\n",
        platform="windows/amd64",
        config={"entrypoint": ("cmd", "/S", "/C", "foo bar"), "environment": (), "platform": parse_platform("windows/amd64")},
    ),
    Case(name="testIgnoreEntrypoint", dockerfile='FROM busybox\nENTRYPOINT ["/nosuchcmd"]\nRUN ["ls"]\n'),
    Case(
        name="testInvalidJSONCommands/run",
        dockerfile='FROM alpine\nRUN ["echo", "hello"]this is invalid\n',
        fails="this is invalid",
        line=2,
    ),
    Case(
        name="testInvalidJSONCommands/entrypoint",
        dockerfile="FROM alpine\nENTRYPOINT []random string\n",
        config={"entrypoint": ("/bin/sh", "-c", "[]random string")},
    ),
    Case(
        name="testDockerfileInvalidCommand",
        dockerfile="\tFROM busybox\n\tRUN invalidcmd\n",
        fails="invalidcmd failed: exit code 127",
        line=2,
    ),
    Case(
        name="testDockerfileInvalidInstruction",
        dockerfile='FROM scratch\nFNTRYPOINT ["/bin/sh", "-c", "echo invalidinstruction"]\n',
        fails="did you mean ENTRYPOINT?",
        line=2,
    ),
    Case(
        name="testTargetMistype",
        dockerfile="FROM scratch AS build\nCOPY Dockerfile /out\nFROM scratch\nCOPY --from=build /out /\n",
        target="bulid",
        fails="did you mean 'build'?",
    ),
    *(
        Case(
            name=f"testOutOfOrderStage/{source}",
            dockerfile=f"FROM busybox AS target\nCOPY --from=build {source} /out\nFROM alpine AS build\n"
            "COPY /Dockerfile /d2\nFROM target\n",
            fails="defined before",
            line=2,
        )
        for source in ("/", "/d2")
    ),
    Case(
        name="testDockerfileScratchConfig",
        dockerfile="FROM scratch\nENV foo=bar\n",
        config={
            "environment": (("PATH", PATH), ("foo", "bar")),
            "working_directory": "/",
            "diff_ids": (),
            "platform": host_platform(),
        },
    ),
    # -- ONBUILD
    Case(
        name="testOnBuildInheritedStageRun",
        dockerfile="FROM busybox AS base\nONBUILD RUN mkdir -p /out && echo -n 11 >> /out/foo\n"
        "FROM base AS mid\nRUN cp /out/foo /out/bar\nFROM scratch\nCOPY --from=mid /out/bar /\n",
        shows={"bar": "11"},
    ),
    Case(
        name="testOnBuildInheritedStageWithFrom/run",
        dockerfile="FROM alpine AS src\nRUN mkdir -p /in && echo -n 12 > /in/file\nFROM busybox AS base\n"
        "ONBUILD COPY --from=src /in/file /out/foo\nFROM base AS mid\nRUN cp /out/foo /out/bar\n"
        "FROM scratch\nCOPY --from=mid /out/bar /\n",
        shows={"bar": "12"},
    ),
    # -- platforms
    Case(
        name="testPlatformArgsImplicit",
        dockerfile="FROM scratch AS build-linux\nCOPY foo bar\nFROM build-${TARGETOS}\nCOPY foo2 bar2\n",
        files={"foo": "d0", "foo2": "d1"},
        shows={"bar": "d0", "bar2": "d1"},
    ),
    Case(
        name="testPlatformArgsExplicit",
        dockerfile="FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETPLATFORM\nARG TARGETOS\n"
        "RUN mkdir /out && echo -n $TARGETPLATFORM > /out/platform && echo -n $TARGETOS > /out/os\n"
        "FROM scratch\nCOPY --from=build out .\n",
        platform="darwin/ppc64le",
        arguments={"TARGETOS": "freebsd"},
        shows={"platform": "darwin/ppc64le", "os": "freebsd"},
    ),
    *(
        Case(
            name=f"testTarExporterMulti/{system}",
            dockerfile=STAGES_BY_SYSTEM,
            files={"foo": "data", "bar": "data2"},
            platform=f"{system}/amd64",
            shows={f"for{system}": content},
            absent=(f"for{other}",),
        )
        for system, content, other in (("linux", "data", "darwin"), ("darwin", "data2", "linux"))
    ),
    *(
        Case(
            name=f"testExportMultiPlatform/{platform}",
            dockerfile=BY_ARCHITECTURE,
            files={f"arch-{name}": f"i am {name}" for name in ("arm", "amd64", "s390x", "ppc64le")},
            platform=platform,
            shows={"whoami": f"i am {platform.split('/')[1]}"},
            config={"platform": parse_platform(platform), "labels": {"target": platform}},
        )
        for platform in ("linux/amd64", "windows/amd64", "linux/arm/v6", "linux/s390x", "linux/ppc64le")
    ),
    # -- where an error points
    *(
        Case(name=f"testErrorsSourceMap/{name}", dockerfile=text, fails=fails, line=line)
        for name, text, fails, line in (
            ("invalidenv", "from alpine\nenv", "ENV", 2),
            ("invalidrun", "from busybox\nenv foo=bar\nrun what", "what", 3),
            ("invalidcopy", "from scratch\nenv foo=bar\ncopy foo bar\nenv bar=baz", "foo", 3),
            ("invalidflag", "from scratch\nenv foo=bar\ncopy --foo=bar / /\nenv bar=baz", "--foo", 3),
            ("invalidcopyfrom", "from scratch\nenv foo=bar\ncopy --from=host.invalid/x foo bar\nenv bar=baz", "invalid", 3),
            ("invalidmultiline", "from busybox\nrun wh\\\nat\nenv bar=baz", "what", 2),
        )
    ),
    Case(name="testHistoryError", dockerfile="FROM scratch\nCOPY notexist /foo\n", fails="notexist", line=2),
]


def write(directory: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """With images named busybox and alpine: one static program, users and groups."""
    directory = tmp_path_factory.mktemp("cases")
    shutil.copy(BUSYBOX, directory / "busybox")
    write(directory, {"etc/passwd": PASSWD, "etc/group": GROUP, "etc/alpine-release": "3.18.0\n"})
    text = 'FROM scratch\nCOPY busybox /bin/\nCOPY etc /etc/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
    with Store.open(directory / "store") as opened:
        names = (parse_reference("busybox"), parse_reference("alpine"))
        request = BuildRequest(context=directory, dockerfile_text=text, tags=names)
        build(request, store=opened, progress=Silent(), host=HOST)
        yield opened


def built(text: str, directory: Path, store: Store, *, name: str = "", **options: Any) -> BuildResult:
    """The image of a Dockerfile, perhaps with a name."""
    directory.mkdir(exist_ok=True)
    write(directory, {"Dockerfile": text})
    tags = (parse_reference(name),) if name else ()
    request = BuildRequest(context=directory, tags=tags, **options)
    return build(request, store=store, progress=Silent(), host=HOST)


def texts_of(result: BuildResult, store: Store) -> dict[str, str]:
    with RootView(store.layer_trees(result.image)) as view:
        return {
            str(entry.path).lstrip("/"): view.read(entry.path, limit_bytes=1 << 22).decode(errors="replace")
            for entry in view.walk()
            if entry.kind.value == "file"
        }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_buildkit_promises(case: Case, tmp_path: Path, store: Store) -> None:
    write(tmp_path, case.files)
    options: dict[str, Any] = {
        "build_args": case.arguments,
        "labels": case.labels,
        "target": case.target,
        "platform": None if case.platform is None else parse_platform(case.platform),
    }
    if case.fails:
        with pytest.raises(ContainError) as caught:
            built(case.dockerfile, tmp_path, store, **options)
        error = caught.value
        assert case.fails in str(error) + (error.log_tail if isinstance(error, BuildStepFailed) else "")
        assert (error.span.line if error.span else 0) == case.line
        return
    result = built(case.dockerfile, tmp_path, store, **options)
    found = texts_of(result, store)
    assert {path: found.get(path) for path in case.shows} == case.shows
    assert not set(case.absent) & set(found)
    assert {name: getattr(result.image.config, name) for name in case.config} == case.config


def test_a_proxy_is_no_part_of_the_cache_and_a_declared_argument_is(tmp_path: Path, store: Store) -> None:
    """testBuiltinArgs."""
    text = (
        "FROM busybox AS build\nARG FOO\nARG BAR\nARG BAZ=bazcontent\n"
        'RUN [ -z "$OTHER" ] && echo -n $HTTP_PROXY::$NO_PROXY::$FOO::$BAR::$BAZ > /out\n'
        "FROM scratch\nCOPY --from=build /out /\n"
    )
    given = (
        {"FOO": "foocontents", "http_proxy": "hpvalue", "NO_PROXY": "npvalue", "OTHER": "undeclared"},
        {"FOO": "foocontents", "http_proxy": "hpvalue2"},
        {"FOO": "foocontents2", "http_proxy": "hpvalue2"},
    )
    found = [texts_of(built(text, tmp_path, store, build_args=arguments), store)["out"] for arguments in given]
    first = "hpvalue::npvalue::foocontents::::bazcontent"
    assert found == [first, first, "hpvalue2::::foocontents2::::bazcontent"]


def test_an_entrypoint_takes_the_command_of_the_base_away(tmp_path: Path, store: Store) -> None:
    """testCmdShell."""
    built('FROM scratch\nCMD ["test"]\n', tmp_path, store, name="example.com/command:base")
    result = built('FROM example.com/command:base\nSHELL ["ls"]\nENTRYPOINT my entrypoint\n', tmp_path, store)
    assert not result.image.config.command
    assert result.image.config.entrypoint == ("ls", "my entrypoint")


def test_an_image_without_layers_is_a_base(tmp_path: Path, store: Store) -> None:
    """testPullScratch."""
    built("FROM scratch\nLABEL foo=bar\n", tmp_path, store, name="docker.io/moby/testpullscratch:latest")
    write(tmp_path, {"foo": "foo-contents"})
    text = "FROM docker.io/moby/testpullscratch:latest\nLABEL bar=baz\nCOPY foo .\n"
    result = built(text, tmp_path, store)
    assert len(result.image.config.diff_ids) == 1
    assert result.image.config.labels == {"foo": "bar", "bar": "baz"}
    text = "FROM busybox AS b\nRUN --mount=from=moby/testpullscratch,target=/empty,rw echo -n foo0 > /empty/foo && cp /empty/foo /\n"
    assert texts_of(built(text, tmp_path, store), store)["foo"] == "foo0"


def test_the_history_is_that_of_one_stage(tmp_path: Path, store: Store) -> None:
    """testExportedHistory, but a RUN that changes nothing makes no layer, and a COPY is shown with where it is from and goes to."""
    write(tmp_path, {"foo": "contents0"})
    text = (
        "FROM busybox AS base\nENV foo=bar\nCOPY foo /foo2\nFROM busybox\nLABEL lbl=val\nCOPY --from=base foo2 foo3\n"
        'WORKDIR /\nRUN echo bar > foo4\nRUN ["ls"]\nEXPOSE 2375 5000 1234/udp\n'
    )
    base = built("FROM busybox\n", tmp_path, store).image.config
    config = built(text, tmp_path, store).image.config
    rows = config.history[len(base.history) :]
    expected = (
        ("lbl=val", True),
        ("COPY --from=base foo2 /foo3", False),
        ("WORKDIR /", True),
        ("echo bar > foo4", False),
        ("RUN ls", True),
        ("EXPOSE 1234/udp 2375 5000", True),
    )
    assert len(rows) == len(expected)
    for row, (shown, empty) in zip(rows, expected, strict=True):
        assert shown in row.created_by
        assert (row.empty_layer, row.created) == (empty, "2000-01-01T00:00:00Z")
    assert len(config.diff_ids) == len(base.diff_ids) + 2


def test_an_argument_that_is_declared_twice_is_in_the_history_of_a_step_once(tmp_path: Path, store: Store) -> None:
    """testExportedHistoryFlattenArgs."""
    text = "FROM busybox\nARG foo=bar\nARG bar=123\nARG foo=bar2\nRUN ls /etc/\n"
    rows = [row.created_by for row in built(text, tmp_path, store).image.config.history[-4:]]
    assert rows[:3] == ["ARG foo=bar", "ARG bar=123", "ARG foo=bar2"]
    assert rows[3].startswith("RUN |2 foo=bar2 bar=123 ")
    assert "ls /etc/" in rows[3]


def test_triggers_with_commands_run_once(tmp_path: Path, store: Store) -> None:
    """testOnBuildCleared and testOnBuildWithChildStage, with their shells."""
    trigger = "FROM busybox\nONBUILD RUN mkdir -p /out && echo -n 11 >> /out/foo\n"
    built(trigger, tmp_path, store, name="example.com/triggers:base")
    built("FROM example.com/triggers:base\n", tmp_path, store, name="example.com/triggers:child")
    text = "FROM example.com/triggers:child AS base\nFROM example.com/triggers:child\nCOPY --from=base /out /\n"
    assert texts_of(built(text, tmp_path, store), store)["foo"] == "11"
    text = (
        "FROM example.com/triggers:base AS base\nRUN [ -f /out/foo ] && touch /step1\nRUN rm /out/foo\n"
        "RUN [ ! -f /out/foo ] && touch /step2\nFROM base AS child\nRUN [ ! -f /out/foo ] && touch /step3\n"
        "FROM scratch\nCOPY --from=child /step* /\n"
    )
    assert set(texts_of(built(text, tmp_path, store), store)) == {"step1", "step2", "step3"}


def test_triggers_bring_stages_and_images_that_nothing_else_names(tmp_path: Path, store: Store) -> None:
    """testOnBuildNewDeps, with its shells and mounts."""
    trigger = "FROM busybox\nONBUILD COPY --from=alpine /etc/alpine-release /out/alpine-release2\n"
    built(trigger, tmp_path, store, name="example.com/needs:base")
    text = "FROM example.com/needs:base AS base\nRUN cat /out/alpine-release2 > /out/alpine-release3\n"
    text += "FROM scratch\nCOPY --from=base /out /\n"
    assert texts_of(built(text, tmp_path, store), store)["alpine-release3"] == "3.18.0\n"
    trigger = (
        "FROM alpine\nONBUILD RUN --mount=type=bind,target=/in,from=inputstage mkdir /out && cat /in/foo > /out/bar"
        " && cat /in/out/alpine-release2 > /out/bar2\n"
    )
    built(trigger, tmp_path, store, name="example.com/needs:base2")
    text = (
        "FROM example.com/needs:base AS inputstage\nRUN cat /out/alpine-release2 > /out/alpine-release4\n"
        "RUN echo -n foo > /foo\nFROM example.com/needs:base2 AS base\nRUN echo -n bar3 > /out/bar3\n"
        "FROM scratch\nCOPY --from=base /out /\n"
    )
    assert texts_of(built(text, tmp_path, store), store) == {"bar": "foo", "bar2": "3.18.0\n", "bar3": "bar3"}


def test_a_trigger_s_cache_mount_is_the_child_s(tmp_path: Path, store: Store) -> None:
    """testOnBuildWithCacheMount."""
    trigger = "FROM busybox\nONBUILD RUN --mount=type=cache,target=/cache echo -n 42 >> /cache/foo && echo -n 11 >> /bar\n"
    built(trigger, tmp_path, store, name="example.com/mounting:base")
    text = 'FROM example.com/mounting:base\nRUN --mount=type=cache,target=/cache [ "$(cat /cache/foo)$(cat /bar)" = 4211 ]\n'
    built(text, tmp_path, store)


class Steps(Silent):
    def __init__(self) -> None:
        self.titles: list[str] = []

    def step(self, title: str) -> None:
        self.titles.append(title)


def test_a_step_is_named_after_its_stage_and_its_text(tmp_path: Path, store: Store) -> None:
    """testStepNames, but steps are counted over the whole build."""
    text = (
        'FROM busybox AS base\nWORKDIR /out\nRUN echo "base of this test" > base\n'
        "FROM scratch\nCOPY --from=base --chmod=0644 /out /out\n"
    )
    write(tmp_path, {"Dockerfile": text})
    steps = Steps()
    build(BuildRequest(context=tmp_path), store=store, progress=steps, host=HOST)
    assert steps.titles == [
        "[1/5 base] FROM busybox AS base",
        "[2/5 base] WORKDIR /out",
        '[3/5 base] RUN echo "base of this test" > base',
        "[4/5 stage-1] FROM scratch",
        "[5/5 stage-1] COPY --from=base --chmod=0644 /out /out",
    ]


def test_a_device_is_refused_by_name(tmp_path: Path, store: Store) -> None:
    """testDeviceRunEnv asks for devices of the host's choice, which are not supported."""
    with pytest.raises(ContainError, match="--device"):
        built("FROM busybox\nRUN --device=vendor1.com/device=foo,required env\n", tmp_path, store)


ASK_THREE_TIMES = """
import os, socket
for _ in range(3):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.environ["SSH_AUTH_SOCK"])
        client.sendall(bytes((0, 0, 0, 1, 11)))
        print(client.recv(9).hex())
"""


def test_each_connection_to_an_agent_is_closed(tmp_path: Path, store: Store) -> None:
    """testSSHFileDescriptorsClosed: this agent talks to one client at a time."""
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev or not Path("/usr/bin/python3").exists():
        pytest.skip("needs a memory file system at /dev/shm and a Python at /usr/bin")
    ended = 0
    with tempfile.TemporaryDirectory(prefix="agent") as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/s")
        listener.listen()

        def answer() -> None:
            nonlocal ended
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    while client.recv(100):
                        client.sendall(bytes((0, 0, 0, 5, 12, 0, 0, 0, 0)))
                ended += 1

        thread = threading.Thread(target=answer)
        thread.start()
        text = f"FROM host\nRUN --mount=type=ssh python3 <<EOF > /answers\n{ASK_THREE_TIMES}\nEOF\n"
        agent = SshSource(id="default", paths=(f"{directory}/s",))
        try:
            result = built(text, tmp_path, store, run=RunOptions(ssh={"default": agent}))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert texts_of(result, store)["answers"] == "000000050c00000000\n" * 3
    assert ended == 3
