"""The cases of BuildKit's own tests of its build checks (``frontend/dockerfile/dockerfile_check_test.go``), as a table.

Each case: the Dockerfile, and the rules with the lines that they find. Where the answer is not BuildKit's, ``differs`` says why.
"""

from __future__ import annotations

from types import MappingProxyType

import pytest

from contain.dockerfile import parse_dockerfile, parse_dockerignore
from contain.dockerfile.checks import BUILDKIT_RULES, BaseFacts, Surroundings, check_dockerfile
from contain.values import dataclass

_PATH = MappingProxyType({"PATH": "/usr/bin:/bin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One Dockerfile of BuildKit's, and what is to be found in it."""

    name: str
    text: str
    expected: tuple[tuple[str, int], ...] = ()
    ignore: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    base_platform: str = "linux/amd64"
    differs: str = ""


def _case(name: str, text: str, *expected: tuple[str, int], **changes: object) -> Case:
    return Case(name=name, text=text, expected=expected, **changes)  # type: ignore[arg-type]


_CHECKED = "FROM scratch as base\ncopy Dockerfile .\n"
_ALL_SECRETS = """\
# check=skip=InvalidDefinitionDescription

FROM scratch
ARG SECRET_PASSPHRASE
ENV SUPER_Secret=foo
ENV password=bar secret=baz
ARG super_duper_secret_token=foo auth=bar
ENV apikey=bar sunflower=foo
ENV git_key=
ENV PUBLIC_KEY=
ARG public_token
ARG SECRET_PASSPHRASE_FILE
ENV password_file=bar secret_File=baz
ARG AUTH_MODULE_VERSION
# check=skip=SecretsUsedInArgOrEnv // allow secret in environment
ENV password=bar
# check=skip=SecretsUsedInArgOrEnv // allow secret in arg
ARG password
# check=skip=all // is local to only this instruction
ENV alternate_password=bar
# check=skip=all // is local to only this instruction
ARG alternate_password
"""
_DESCRIBED = """\
# check=skip=all;experimental=InvalidDefinitionDescription
# foo this is the foo
ARG foo=bar

# base this is the base image
FROM scratch AS base

# version this is the version number
ARG version=latest

# baz this is the baz
ARG foo=baz bar=qux baz=quux
#
ARG bit=bat

# comment for something other than ARG or FROM
COPY Dockerfile .
"""
_BADLY_DESCRIBED = """\
# check=experimental=InvalidDefinitionDescription
# bar this is the bar
ARG foo=bar
# BasE this is the BasE image
FROM scratch AS base
# definitely a bad comment
ARG version=latest
# definitely a bad comment
ARG foo=baz bar=qux baz=quux
"""
_COPIED = "\nFROM scratch\nCOPY Dockerfile .\nADD Dockerfile /windy\n"

CASES = (
    _case("description", _DESCRIBED),
    _case("description-bad", _BADLY_DESCRIBED, *(("InvalidDefinitionDescription", line) for line in (3, 5, 7, 9))),
    _case("ignored", _COPIED, ("CopyIgnoredFile", 3), ("CopyIgnoredFile", 4), ignore="\nDockerfile\n"),
    _case("ignored-again", _COPIED, ("CopyIgnoredFile", 3), ("CopyIgnoredFile", 4), ignore="\nDockerfile\n"),
    _case("ignored-waived", "# check=skip=CopyIgnoredFile\n" + _COPIED, ignore="\nDockerfile\n"),
    _case(
        "ignored-in-the-context-only",
        "\nFROM scratch AS base\nCOPY Dockerfile /foobar\nADD Dockerfile /windy\n\n"
        "FROM base\nCOPY --from=base /foobar /Dockerfile\n",
        ignore="\nfoobar\n",
    ),
    _case("ignored-with-exceptions", "\nFROM scratch\nCOPY ./Dockerfile .\n", ignore="\n**\n!Dockerfile\n"),
    _case("ignored-directory", "\nFROM scratch\nCOPY . .\n\t", ignore="\n**\n!Dockerfile\n"),
    _case("ignored-dot-files", "\nFROM scratch\nCOPY . .\n", ignore="\n.*\n"),
    _case("ignored-everything", "\nFROM scratch\nCOPY . .\n", ("CopyIgnoredFile", 3), ignore="\n*\n"),
    _case("secrets", _ALL_SECRETS, *(("SecretsUsedInArgOrEnv", line) for line in (4, 5, 6, 6, 7, 7, 8, 9))),
    _case(
        "all-stages",
        "\nFROM scratch AS first\nCOPY $foo .\n\nFROM scratch AS second\nCOPY $bar .\n",
        ("UndefinedVar", 3),
        ("UndefinedVar", 6),
    ),
    _case("option-all", "#check=skip=all\n" + _CHECKED),
    _case("option-all-error", "#check=skip=all;error=true\n" + _CHECKED),
    _case("option-two", "#check=skip=ConsistentInstructionCasing,FromAsCasing\n" + _CHECKED),
    _case("option-two-error", "#check=skip=ConsistentInstructionCasing,FromAsCasing;error=true\n" + _CHECKED),
    _case("option-one", "#check=skip=ConsistentInstructionCasing\n" + _CHECKED, ("FromAsCasing", 2)),
    _case("option-one-error", "#check=skip=ConsistentInstructionCasing;error=true\n" + _CHECKED, ("FromAsCasing", 2)),
    _case(
        "option-of-the-argument",
        "#check=skip=all\n" + _CHECKED,
        ("FromAsCasing", 2),
        build_args=(("BUILDKIT_DOCKERFILE_CHECK", "skip=ConsistentInstructionCasing;error=true"),),
    ),
    _case(
        "option-of-the-argument-all", "#check=error=true\n" + _CHECKED, build_args=(("BUILDKIT_DOCKERFILE_CHECK", "skip=all"),)
    ),
    _case(
        "stage-name",
        "\n# warning: stage name should be lowercase\n#\nFROM scratch AS BadStageName\n\n"
        "# warning: 'as' should match 'FROM' cmd casing.\n#\nFROM scratch as base2\n\nFROM scratch AS base3\n",
        ("StageNameCasing", 4),
        ("FromAsCasing", 8),
    ),
    _case(
        "stage-name-lower",
        "\n# warning: 'AS' should match 'from' cmd casing.\n#\nfrom scratch AS base\n\nfrom scratch as base2\n",
        ("FromAsCasing", 4),
    ),
    _case(
        "empty-continuation",
        "\nFROM scratch\n# warning: empty continuation line\nCOPY Dockerfile \\\n\n.\nCOPY Dockerfile \\\n.\n",
        ("NoEmptyContinuation", 5),
        differs="the empty line is pointed at, not the line behind it (6)",
    ),
    _case("casing-mixed", "\n# comment\n#\nFrom scratch as base\nFROM scratch AS base2\n", ("ConsistentInstructionCasing", 4)),
    _case(
        "casing-copy",
        "\nFROM scratch\n# comment\ncopy Dockerfile /foo\nCOPY Dockerfile /bar\n",
        ("ConsistentInstructionCasing", 4),
    ),
    _case(
        "casing-mixed-lower",
        "\n# comment\n#\nfrOM scratch as base\nfrom scratch as base2\n",
        ("ConsistentInstructionCasing", 4),
    ),
    _case(
        "casing-copy-upper",
        "\nfrom scratch\n# comment\nCOPY Dockerfile /foo\ncopy Dockerfile /bar\n",
        ("ConsistentInstructionCasing", 4),
    ),
    _case(
        "casing-from-lower",
        "\n# comment\n#\nfrom scratch\nCOPY Dockerfile /foo\nCOPY Dockerfile /bar\nCOPY Dockerfile /baz\n",
        ("ConsistentInstructionCasing", 4),
    ),
    _case(
        "casing-from-upper",
        "\n# comment\n#\nFROM scratch\ncopy Dockerfile /foo\ncopy Dockerfile /bar\ncopy Dockerfile /baz\n",
        ("ConsistentInstructionCasing", 4),
    ),
    _case("casing-all-lower", "\nfrom scratch\ncopy Dockerfile /foo\ncopy Dockerfile /bar\n"),
    _case("casing-all-upper", "\nFROM scratch\nCOPY Dockerfile /foo\nCOPY Dockerfile /bar\n"),
    _case("casing-heredoc", "\nFROM alpine\nRUN <<'EOT'\nenv\nEOT\n"),
    _case("duplicate-stage", "\nFROM scratch AS b\nFROM scratch AS b\n", ("DuplicateStageName", 3)),
    _case("no-duplicate-stage", "\nFROM scratch AS b1\nFROM scratch AS b2\n"),
    _case(
        "reserved-stage",
        "\nFROM scratch AS scratch\nFROM scratch AS context\n",
        ("ReservedStageName", 2),
        ("ReservedStageName", 3),
    ),
    _case("no-reserved-stage", "\nFROM scratch\nFROM scratch AS a\n"),
    _case("json-cmd", "\nFROM scratch\nCMD mycommand\n", ("JSONArgsRecommended", 3)),
    _case("json-entrypoint", "\nFROM scratch\nENTRYPOINT mycommand\n", ("JSONArgsRecommended", 3)),
    _case("json-cmd-shell", '\nFROM scratch\nSHELL ["/usr/bin/customshell"]\nCMD mycommand\n'),
    _case("json-entrypoint-shell", '\nFROM scratch\nSHELL ["/usr/bin/customshell"]\nENTRYPOINT mycommand\n'),
    _case("json-cmd-shell-below", '\nFROM scratch AS base\nSHELL ["/usr/bin/customshell"]\n\nFROM base\nCMD mycommand\n'),
    _case("json-entrypoint-shell-below", '\nFROM scratch AS base\nSHELL ["/usr/bin/customshell"]\n\nFROM base\nENTRYPOINT x\n'),
    _case("maintainer", "\nFROM scratch\nMAINTAINER me@example.org\n", ("MaintainerDeprecated", 3)),
    _case("maintainer-label", '\nFROM scratch\nLABEL org.opencontainers.image.authors="me@example.org"\n'),
    _case("json-cmd-waived", "\nFROM scratch\n# check=skip=JSONArgsRecommended\nCMD mycommand\n"),
    _case("json-entrypoint-waived", "\nFROM scratch\n# check=skip=JSONArgsRecommended\nENTRYPOINT mycommand\n"),
    _case("maintainer-waived", "\nFROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me@example.org\n"),
    _case("from-arg", "\nARG base=scratch\nFROM $base\nCOPY Dockerfile .\n"),
    _case("from-platform-arg", "\nARG BUILDPLATFORM=linux/amd64\nFROM --platform=$BUILDPLATFORM scratch\nCOPY Dockerfile .\n"),
    _case("from-platform-predefined", "\nFROM --platform=$BUILDPLATFORM scratch\nCOPY Dockerfile .\n"),
    _case("from-arg-unset", "\nARG DEBUG\nFROM scratch${DEBUG}\nCOPY Dockerfile .\n"),
    _case("from-arg-default", "\nARG DEBUG\nFROM scra${DEBUG:-tch}\nCOPY Dockerfile .\n"),
    _case("from-arg-empty", '\nARG DEBUG=""\nFROM scratch${DEBUG-@bogus}\nCOPY Dockerfile .\n'),
    _case(
        "from-platform-misspelt",
        "\nFROM --platform=$BULIDPLATFORM scratch\nCOPY Dockerfile .\n",
        ("UndefinedArgInFrom", 2),
    ),
    _case(
        "from-platform-half-misspelt",
        "\nARG MY_OS=linux\nARG MY_ARCH=amd64\nFROM --platform=linux/${MYARCH} busybox\nCOPY Dockerfile .\n\t",
        ("UndefinedArgInFrom", 4),
    ),
    _case(
        "from-undeclared",
        "\nARG tag=latest\nFROM busybox:${tag}${version} AS b\nCOPY Dockerfile .\n",
        ("UndefinedArgInFrom", 3),
    ),
    _case("workdir-relative", "\nFROM scratch\nWORKDIR app/\n", ("WorkdirRelativePath", 3)),
    _case("workdir-below", "\nFROM scratch AS a\nWORKDIR /app\n\nFROM a AS b\nWORKDIR subdir/\n"),
    _case("workdir-waived", "\nFROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR app/\n"),
    _case("var-declared", "\nFROM scratch\nARG foo\nCOPY Dockerfile${foo} .\n"),
    _case("var-below", "\nFROM alpine AS base\nARG foo=Dockerfile\n\nFROM base\nCOPY $foo .\n"),
    _case("var-of-the-shell", "\nFROM alpine\nRUN echo $PATH\n"),
    _case("var-later", "\nFROM alpine\nCOPY $foo .\nARG foo=bar\nRUN echo $foo\n", ("UndefinedVar", 3)),
    _case(
        "var-misspelt",
        "\nFROM alpine\nARG DIR_BINARIES=binaries/\nARG DIR_ASSETS=assets/\nARG DIR_CONFIG=config/\nCOPY $DIR_ASSET .\n\t",
        ("UndefinedVar", 6),
    ),
    _case("var-path-misspelt", "\nFROM alpine\nENV PATH=$PAHT:/tmp/bin\n\t\t", ("UndefinedVar", 3)),
    _case(
        "twice",
        '\nFROM scratch\nENTRYPOINT ["/myapp"]\nENTRYPOINT ["/myotherapp"]\nCMD ["/myapp"]\nCMD ["/myotherapp"]\n'
        'HEALTHCHECK CMD ["/myapp"]\nHEALTHCHECK CMD ["/myotherapp"]\n',
        *(("MultipleInstructionsDisallowed", line) for line in (3, 5, 7)),
    ),
    _case(
        "twice-apart",
        '\nFROM scratch\nENTRYPOINT ["/myapp"]\nCMD ["/myapp"]\nHEALTHCHECK CMD ["/myapp"]\nCOPY <<EOF /a.txt\n'
        'Hello, World!\nEOF\nENTRYPOINT ["/myotherapp"]\nCMD ["/myotherapp"]\nHEALTHCHECK CMD ["/myotherapp"]\n',
        *(("MultipleInstructionsDisallowed", line) for line in (3, 4, 5)),
    ),
    _case(
        "twice-in-two-stages",
        '\nFROM scratch AS a\nENTRYPOINT ["/myapp"]\nCMD ["/myapp"]\nHEALTHCHECK CMD ["/myapp"]\n\nFROM a AS b\n'
        'ENTRYPOINT ["/myotherapp"]\nCMD ["/myotherapp"]\nHEALTHCHECK CMD ["/myotherapp"]\n',
    ),
    _case(
        "legacy",
        "\nFROM scratch\nENV testkey value\nLABEL key value\n",
        ("LegacyKeyValueFormat", 3),
        ("LegacyKeyValueFormat", 4),
    ),
    _case("no-legacy", "\nFROM scratch\nENV testkey=value\nLABEL key=value\n"),
    _case(
        "legacy-in-an-unused-stage",
        "\nFROM scratch AS a\n\nFROM a AS b\nENV testkey value\nLABEL key value\n\nFROM a AS c\n",
        ("LegacyKeyValueFormat", 5),
        ("LegacyKeyValueFormat", 6),
    ),
    _case(
        "legacy-waived",
        "\nFROM scratch\n# check=skip=LegacyKeyValueFormat\nENV testkey value\n"
        "# check=skip=LegacyKeyValueFormat\nLABEL key value\n",
    ),
    _case("base-platform", "\nFROM busybox\nENV foo=bar\n\t", ("InvalidBaseImagePlatform", 2), base_platform="linux/arm64"),
    _case("target-platform", "\nFROM --platform=$TARGETPLATFORM scratch\n", ("RedundantTargetPlatform", 2)),
    _case("target-platform-braces", "\nFROM --platform=${TARGETPLATFORM} scratch\n", ("RedundantTargetPlatform", 2)),
    _case("target-platform-waived", "\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch\n"),
    _case(
        "default-tag",
        "\nARG VERSION\nFROM busybox:$VERSION\n",
        ("InvalidDefaultArgInFrom", 3),
        build_args=(("VERSION", "latest"),),
    ),
    _case(
        "default-image",
        "\nARG IMAGE\nFROM $IMAGE\n",
        ("InvalidDefaultArgInFrom", 3),
        build_args=(("IMAGE", "busybox:latest"),),
    ),
    _case(
        "default-suffix",
        '\nARG SFX="box:"\nFROM busy${SFX}\n',
        ("InvalidDefaultArgInFrom", 3),
        build_args=(("SFX", "box:latest"),),
    ),
    _case("default-good", '\nARG VERSION="latest"\nFROM busybox:${VERSION}\n', build_args=(("VERSION", "latest"),)),
    _case(
        "default-empty",
        '\nARG BUSYBOX_VARIANT=""\nFROM busybox:stable${BUSYBOX_VARIANT}\n',
        build_args=(("BUSYBOX_VARIANT", "-musl"),),
    ),
    _case(
        "default-none",
        "\n\tARG BUSYBOX_VARIANT\n\tFROM busybox:stable${BUSYBOX_VARIANT}\n\t",
        build_args=(("BUSYBOX_VARIANT", "-musl"),),
    ),
    _case("platform-constant", "\nFROM --platform=linux/amd64 scratch\n", ("FromPlatformFlagConstDisallowed", 2)),
    _case("platform-constant-named", "\nFROM --platform=linux/amd64 scratch AS my_amd64_stage\n"),
    _case("platform-constant-system", "\nFROM --platform=linux/amd64 scratch AS linux\n"),
    _case(
        "expose-protocol",
        "\nFROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp\n",
        ("ExposeProtoCasing", 3),
        ("ExposeProtoCasing", 3),
    ),
    _case(
        "expose-format",
        "\nFROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000\n",
        *(("ExposeInvalidFormat", 3) for _ in range(3)),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_case_of_buildkit_is_found_as_it_is_there(case: Case) -> None:
    facts = BaseFacts(environment=_PATH, platform=case.base_platform)
    surroundings = Surroundings(
        build_args=dict(case.build_args),
        ignore=parse_dockerignore(case.ignore),
        find_base=lambda name: facts if name.partition(":")[0] in ("alpine", "busybox") else None,
    )
    findings = check_dockerfile(parse_dockerfile(case.text), surroundings, rules=BUILDKIT_RULES)
    assert [(finding.rule.name, finding.span.line) for finding in findings] == list(case.expected)


def test_every_rule_of_buildkit_has_a_case_that_it_finds() -> None:
    assert {rule for case in CASES for rule, _ in case.expected} == {rule.name for rule in BUILDKIT_RULES}
    assert len(BUILDKIT_RULES) == 22
