from __future__ import annotations

from collections.abc import Mapping

import pytest

from contain.build.fold import begin_stage, fold
from contain.build.state import StageState, absolute_path
from contain.build.steps import CopyStep, RunStep, Step, WorkdirStep
from contain.dockerfile.parse import parse_dockerfile
from contain.errors import NotSupported, UsageError
from contain.oci import ImageConfig


def folded(
    text: str,
    *,
    base: ImageConfig | None = None,
    given: Mapping[str, str] | None = None,
    global_arguments: Mapping[str, str | None] | None = None,
) -> tuple[StageState, list[Step]]:
    dockerfile = parse_dockerfile("FROM base\n" + text)
    state = begin_stage(base or ImageConfig(), given=given or {}, global_arguments=global_arguments or {})
    steps = []
    for instruction in dockerfile.stages[0].instructions:
        state, step = fold(state, instruction)
        steps.append(step)
    return state, steps


def environment(state: StageState) -> dict[str, str]:
    return dict(state.config.environment)


def test_a_base_without_path_gets_one_and_a_base_with_one_keeps_it() -> None:
    assert environment(folded("")[0])["PATH"].startswith("/usr/local/sbin")
    assert environment(folded("", base=ImageConfig(environment=(("PATH", "/x"),)))[0]) == {"PATH": "/x"}


def test_all_values_of_one_env_see_the_old_variables() -> None:
    state, _ = folded("ENV a=1\nENV a=2 b=$a\nENV c=$a")
    assert (environment(state)["b"], environment(state)["c"]) == ("1", "2")


def test_env_beats_arg_of_the_same_name_also_for_run() -> None:
    state, steps = folded("ARG x=arg\nENV x=env\nLABEL got=$x\nRUN true", given={"x": "given"})
    assert state.config.labels["got"] == "env"
    assert isinstance(steps[-1], RunStep)
    assert dict(steps[-1].environment)["x"] == "env"


def test_an_arg_takes_the_build_argument_then_its_default_then_the_global_value() -> None:
    text = "ARG a=own\nARG b=own\nARG c\nARG d\nLABEL r=$a-$b-$c-${d:-unset}"
    state, _ = folded(text, given={"a": "given"}, global_arguments={"a": "g", "b": "g", "c": "g"})
    assert state.config.labels["r"] == "given-own-g-unset"


def test_an_arg_is_not_visible_before_it_is_declared() -> None:
    state, _ = folded("LABEL before=$a\nARG a\nLABEL after=$a", given={"a": "1"})
    assert dict(state.config.labels) == {"before": "", "after": "1"}


def test_declaring_an_arg_again_without_default_keeps_its_value() -> None:
    assert folded("ARG a=1\nARG a\nLABEL r=$a")[0].config.labels["r"] == "1"


def test_declared_args_are_in_the_history_of_run_and_undeclared_ones_nowhere() -> None:
    _, steps = folded("ARG a=1\nARG unset\nRUN x", given={"HTTP_PROXY": "p"})
    assert steps[-1].created_by == "RUN |1 a=1 /bin/sh -c x"


def test_entrypoint_clears_an_inherited_command_but_not_one_of_this_stage() -> None:
    base = ImageConfig(command=("inherited",))
    assert folded('ENTRYPOINT ["e"]', base=base)[0].config.command is None
    assert folded('CMD ["c"]\nENTRYPOINT ["e"]', base=base)[0].config.command == ("c",)
    assert folded('ENTRYPOINT ["e"]\nCMD ["c"]', base=base)[0].config.command == ("c",)


def test_an_empty_entrypoint_clears_it() -> None:
    state, _ = folded("ENTRYPOINT []", base=ImageConfig(entrypoint=("e",)))
    assert state.config.entrypoint is None


def test_shell_applies_to_shell_forms_only() -> None:
    state, steps = folded('SHELL ["/bin/bash", "-ec"]\nCMD a b\nENTRYPOINT ["x"]\nRUN c\nRUN ["d", "$e"]')
    assert state.config.command == ("/bin/bash", "-ec", "a b")
    assert state.config.entrypoint == ("x",)
    runs = [step.arguments for step in steps if isinstance(step, RunStep)]
    assert runs == [("/bin/bash", "-ec", "c"), ("d", "$e")]


def test_expose_expands_words_and_ranges() -> None:
    state, _ = folded('ENV P="80 443/udp"\nEXPOSE $P 8000-8002')
    assert state.config.exposed_ports == ("443/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp")


def test_workdir_is_relative_to_the_one_before_and_expands() -> None:
    state, steps = folded("WORKDIR /a\nWORKDIR b/../$X\nWORKDIR ..", base=ImageConfig(environment=(("X", "c"),)))
    assert [step.path for step in steps if isinstance(step, WorkdirStep)] == ["/a", "/a/c", "/a"]
    assert state.config.working_directory == "/a"


@pytest.mark.parametrize(
    ("directory", "path", "expected"),
    [
        ("/w", "x", "/w/x"),
        ("/w", "x/", "/w/x/"),
        ("/w", ".", "/w/"),
        ("/w", "/y", "/y"),
        ("/w", "//y", "/y"),
        ("/w", "../../..", "/"),
        ("/", "", "/"),
    ],
)
def test_a_destination_keeps_its_trailing_slash(directory: str, path: str, expected: str) -> None:
    assert absolute_path(directory, path) == expected


def test_labels_volumes_user_author_and_stop_signal_end_in_the_config() -> None:
    state, _ = folded('LABEL a="b c" d=e\nVOLUME /v ["/w"]\nUSER $U\nMAINTAINER me\nSTOPSIGNAL SIGINT', given={})
    assert dict(state.config.labels) == {"a": "b c", "d": "e"}
    assert (state.config.author, state.config.stop_signal) == ("me", "SIGINT")


def test_a_bad_stop_signal_points_at_it() -> None:
    with pytest.raises(UsageError) as caught:
        folded("STOPSIGNAL SIGNONSENSE")
    assert caught.value.span is not None
    assert caught.value.span.column == len("STOPSIGNAL ") + 1


def test_healthcheck_keeps_its_form_and_none_disables() -> None:
    shell = folded("HEALTHCHECK --interval=5s --retries=2 CMD curl x")[0].config.healthcheck
    assert shell is not None
    assert (shell.test, shell.interval_nanoseconds, shell.retries) == (("CMD-SHELL", "curl x"), 5_000_000_000, 2)
    nothing = folded("HEALTHCHECK NONE")[0].config.healthcheck
    assert nothing is not None
    assert nothing.test == ("NONE",)


def test_onbuild_is_kept_as_text_and_not_inherited() -> None:
    state, _ = folded("ONBUILD RUN echo $X", base=ImageConfig(on_build=("RUN old",)))
    assert state.config.on_build == ("RUN echo $X",)


def test_copy_expands_sources_destination_and_flags_but_not_a_quoted_heredoc() -> None:
    _, steps = folded("ARG v=1\nCOPY --chown=$v:2 --chmod=7${v}5 a$v <<a <<'b' /d$v/\n$v\na\n$v\nb\n")
    step = steps[-1]
    assert isinstance(step, CopyStep)
    assert (step.sources, step.destination, step.chown, step.chmod) == (("a1",), "/d1/", "1:2", "715")
    assert step.documents == (("a", "1\n"), ("b", "$v\n"))


def test_several_sources_need_a_directory() -> None:
    with pytest.raises(UsageError, match="needs a directory"):
        folded("COPY a b /c")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("RUN --device=vendor.com/class=name true", "--device"),
        ("ONBUILD RUN --device=vendor.com/class=name true", "--device"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name_and_place(text: str, named: str) -> None:
    with pytest.raises(NotSupported) as caught:
        folded(text)
    assert named in str(caught.value)
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_a_url_that_comes_out_of_a_variable_is_refused_by_copy_too() -> None:
    with pytest.raises(UsageError, match="can't be a URL for COPY"):
        folded("ARG u=https://example.com/x\nCOPY $u /b/")
    with pytest.raises(UsageError, match="can't be a git repository for COPY"):
        folded("COPY git@example.com:x.git /b/")


def test_network_of_run_is_kept() -> None:
    _, steps = folded("RUN --network=none true")
    assert isinstance(steps[0], RunStep)
    assert steps[0].network == "none"


def test_copy_and_add_tell_history_their_options_and_no_password() -> None:
    _, steps = folded(
        "ARG what=txt\nCOPY --link --parents --exclude=*.$what --from=x --chmod=u=rw a ./b/\n"
        "ADD --checksum=sha256:"
        + "0" * 64
        + " https://me:pw@example.com/x /y\nADD --keep-git-dir git@example.com:x.git#main /z\n"
    )
    assert [step.created_by for step in steps[1:]] == [
        "COPY --from=x --chmod=u=rw --exclude=*.txt --parents --link a /b/",
        "ADD https://***@example.com/x /y",
        "ADD git@example.com:x.git#main /z",
    ]
    copy, url, git = steps[1:]
    assert isinstance(copy, CopyStep)
    assert (copy.link, copy.parents, copy.exclude, copy.add, copy.unpack) == (True, True, ("*.txt",), False, False)
    assert isinstance(url, CopyStep)
    assert (url.add, url.unpack, url.unpack_remote, url.checksum) == (True, True, False, "sha256:" + "0" * 64)
    assert isinstance(git, CopyStep)
    assert git.keep_git_dir


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ADD --checksum=sha256:" + "0" * 64 + " a /b", "requires HTTP"),
        ("ADD --checksum=sha256:" + "0" * 64 + " https://h/a https://h/b /c/", "multiple sources"),
        ("ADD --checksum=md5:0 https://h/a /b", "unsupported digest algorithm"),
        ("ADD --checksum=zz https://h/a.git /b", "expected hex commit hash"),
        ("ADD https://h/a.git?what=1 /b", "unexpected query 'what'"),
        ("ADD ftp://h/a /b", "no address like ftp://h/a"),
        ("ADD file:///a.git /b", "no address like file:///a.git"),
    ],
)
def test_a_checksum_or_an_address_that_means_nothing_is_refused_before_the_build(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        folded(text)
    assert caught.value.span is not None
