from __future__ import annotations

import pytest

from contain.dockerfile import (
    Add,
    Arg,
    ArgDeclaration,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    Maintainer,
    MountKind,
    OnBuild,
    Pair,
    Run,
    ScriptFile,
    Shell,
    ShellForm,
    User,
    Volume,
    Workdir,
    parse_dockerfile,
    parse_trigger,
    resolve_mount,
    suggest,
)
from contain.errors import UsageError

UNSET: dict[str, str] = {}


def one(text: str) -> Instruction:
    (instruction,) = parse_dockerfile(f"FROM base\n{text}\n").stages[0].instructions
    return instruction


def test_stages_and_global_arguments() -> None:
    dockerfile = parse_dockerfile(
        "ARG V=1 W\nARG X=\nFROM --platform=$P debian:$V AS Build\nRUN a\nFROM build\nFROM scratch as build\nCOPY --from=0 a b\n"
    )
    assert [arg.declarations for arg in dockerfile.global_args] == [
        (ArgDeclaration(name="V", default="1"), ArgDeclaration(name="W")),
        (ArgDeclaration(name="X", default=""),),
    ]
    assert [(stage.name, stage.base, stage.platform) for stage in dockerfile.stages] == [
        ("build", "debian:$V", "$P"),
        (None, "build", None),
        ("build", "scratch", None),
    ]
    assert [len(stage.instructions) for stage in dockerfile.stages] == [1, 0, 1]
    assert dockerfile.stages[2].span.line == 6


def test_the_last_stage_of_a_name_before_the_reference_is_meant() -> None:
    dockerfile = parse_dockerfile("FROM a AS x\nFROM b AS y\nFROM c AS x\n")
    assert dockerfile.index_of_stage("X") == 2
    assert dockerfile.index_of_stage("x", before=2) == 0
    assert dockerfile.index_of_stage("x", before=0) is None
    assert dockerfile.index_of_stage("1") == 1
    assert dockerfile.index_of_stage("1", before=1) is None
    assert dockerfile.index_of_stage("1", numbers=False) is None
    assert dockerfile.index_of_stage("z") is None
    assert suggest("biuld", ["base", "build"]) == "build"
    assert suggest("BUILDER", ["builder"]) == "builder"
    assert suggest("zzz", ["base", "build"]) is None


def test_copy() -> None:
    copy = one("COPY --from=build --chown=a:b --chmod=755 --link --parents --exclude=*.md --exclude=x a b/ /dst/")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination, copy.from_stage) == (("a", "b/"), "/dst/", "build")
    assert (copy.chown, copy.chmod, copy.link, copy.parents, copy.exclude) == ("a:b", "755", True, True, ("*.md", "x"))
    plain = one("COPY --link=false a b")
    assert isinstance(plain, Copy)
    assert (plain.from_stage, plain.chown, plain.link, plain.parents, plain.exclude) == (None, None, False, False, ())


def test_copy_of_heredocs() -> None:
    copy = one("COPY <<a foo <<-'b' /dst/\n1\na\n\t2\nb")
    assert isinstance(copy, Copy)
    assert copy.sources == ("foo",)
    assert [(doc.name, doc.body, doc.expand) for doc in copy.heredocs] == [("a", "1\n", True), ("b", "2\n", False)]
    literal = one('COPY ["<<a", "/dst"]')
    assert isinstance(literal, Copy)
    assert literal.sources == ("<<a",)


def test_add() -> None:
    add = one("ADD --checksum=sha256:1 --keep-git-dir --unpack=false https://x /y")
    assert isinstance(add, Add)
    assert (add.sources, add.checksum, add.keep_git_dir, add.unpack) == (("https://x",), "sha256:1", True, False)
    plain = one("ADD a b")
    assert isinstance(plain, Add)
    assert (plain.keep_git_dir, plain.unpack) == (None, None)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("RUN echo $x", ShellForm(text="echo $x")),
        ('RUN ["echo", "$x"]', ExecForm(arguments=("echo", "$x"))),
        ("RUN <<E\necho $x\nE", ShellForm(text="echo $x\n")),
        ("RUN <<-'E'\n\techo\n\tE", ShellForm(text="echo\n")),
        ("RUN <<E\n#!/usr/bin/python3\nprint()\nE", ScriptFile(path="/dev/pipes/E", body="#!/usr/bin/python3\nprint()\n")),
        ("RUN python3 <<E\n#!x\nE", ShellForm(text="python3 <<E\n#!x\nE")),
        ("RUN <<A cat >x && <<B cat >y\n1\nA\n2\nB", ShellForm(text="<<A cat >x && <<B cat >y\n1\nA\n2\nB")),
    ],
)
def test_what_run_starts(text: str, program: ShellForm | ExecForm | ScriptFile) -> None:
    run = one(text)
    assert isinstance(run, Run)
    assert run.program == program


def test_run_keeps_its_text_for_history() -> None:
    run = one("RUN --network=none --mount=type=cache,target=/c \\\n  # why\n  <<E cat\nhello\nE")
    assert run.text == "RUN --network=none --mount=type=cache,target=/c   <<E cat"
    assert run.source == run.text + "\nhello\nE"
    assert isinstance(run, Run)
    assert (run.network, run.security) == ("none", "sandbox")
    (mount,) = run.mounts
    assert resolve_mount(mount, UNSET.get).kind is MountKind.CACHE


def test_pairs() -> None:
    env = one('ENV a=1 b="$x y" c=')
    assert isinstance(env, Env)
    assert env.pairs == (Pair(name="a", value="1"), Pair(name="b", value='"$x y"'), Pair(name="c", value=""))
    legacy = one("ENV a b=c d")
    assert isinstance(legacy, Env)
    assert legacy.pairs == (Pair(name="a", value="b=c d", legacy=True),)


def test_simple_instructions() -> None:
    assert one("workdir /a b") == Workdir(text="workdir /a b", line=one("USER x").line, path="/a b")
    user, expose, volume, maintainer = (
        one(text) for text in ("USER a:b", "EXPOSE 90 443/tcp $P", 'VOLUME ["/a b", " /c "]', "MAINTAINER a <b>")
    )
    assert isinstance(user, User)
    assert user.user == "a:b"
    assert isinstance(expose, Expose)
    assert expose.ports == ("$P", "443/tcp", "90")
    assert isinstance(volume, Volume)
    assert volume.paths == ("/a b", "/c")
    assert isinstance(maintainer, Maintainer)
    assert maintainer.author == "a <b>"
    arg = one("ARG a b=")
    assert isinstance(arg, Arg)
    assert arg.declarations == (ArgDeclaration(name="a"), ArgDeclaration(name="b", default=""))


def test_commands_can_be_cleared() -> None:
    cmd, entrypoint, shell = one("CMD []"), one("ENTRYPOINT [ ]"), one('SHELL ["/bin/bash", "-c"]')
    assert isinstance(cmd, Cmd)
    assert cmd.command == ExecForm(arguments=())
    assert isinstance(entrypoint, Entrypoint)
    assert entrypoint.command == ExecForm(arguments=())
    assert isinstance(shell, Shell)
    assert shell.arguments == ("/bin/bash", "-c")


def test_healthcheck() -> None:
    check = one("HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=0s --start-interval=1s --retries=3 CMD curl -f x")
    assert isinstance(check, Healthcheck)
    assert check.test == ("CMD-SHELL", "curl -f x")
    assert (check.interval_nanoseconds, check.timeout_nanoseconds) == (90_000_000_000, 500_000_000)
    assert (check.start_period_nanoseconds, check.start_interval_nanoseconds, check.retries) == (0, 1_000_000_000, 3)
    listed, none = one('HEALTHCHECK cmd ["a", "b"]'), one("HEALTHCHECK none")
    assert isinstance(listed, Healthcheck)
    assert listed.test == ("CMD", "a", "b")
    assert isinstance(none, Healthcheck)
    assert none.test == ("NONE",)


@pytest.mark.parametrize("text", ["RUN a", "COPY <<E <<-F /x\n1\nE\n\t2\nF", "ENV a=b", 'CMD ["x"]', "HEALTHCHECK CMD x"])
def test_a_trigger_reads_back_as_the_instruction(text: str) -> None:
    onbuild = one(f"ONBUILD {text}")
    assert isinstance(onbuild, OnBuild)
    assert parse_trigger(onbuild.trigger) == onbuild.instruction == one(text)


@pytest.mark.parametrize("text", ["FROM x", "ONBUILD RUN x", "MAINTAINER x", "RUN a\nRUN b", "", "# comment"])
def test_what_cannot_be_a_trigger_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_trigger(text)


@pytest.mark.parametrize(
    "keyword",
    [
        "ENV",
        "LABEL",
        "ONBUILD",
        "HEALTHCHECK",
        "EXPOSE",
        "VOLUME",
        "ARG",
        "RUN",
        "CMD",
        "ENTRYPOINT",
        "SHELL",
        "MAINTAINER",
        "WORKDIR",
    ],
)
def test_an_instruction_without_arguments_is_an_error(keyword: str) -> None:
    with pytest.raises(UsageError, match=f"{keyword} needs"):
        one(keyword)


def test_equality_does_not_depend_on_the_place() -> None:
    assert one("\n\nRUN a") == one("RUN a")
    assert one("RUN a") != one("RUN b")
    assert one("RUN <<E\n1\nE") != one("RUN <<E\n2\nE")
    assert Heredoc(name="E", content="\t1\n", strip_tabs=True).body == "1\n"
