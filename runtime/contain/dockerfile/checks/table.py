"""The table of the build checks: every rule, as data. ``docs/checks.md`` has a section for each, in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from contain.dockerfile.checks import buildkit, installing, reproducibility
from contain.dockerfile.checks.installing import Installer
from contain.dockerfile.checks.rules import Found, Group, Rule, Severity, Subject


def _buildkit(
    name: str, check: Callable[[Subject], Iterable[Found]], description: str, remedy: str, *, experimental: bool = False
) -> Rule:
    return Rule(
        name=name,
        group=Group.BUILDKIT,
        severity=Severity.WARNING,
        description=description,
        remedy=remedy,
        check=check,
        experimental=experimental,
    )


BUILDKIT_RULES: tuple[Rule, ...] = (
    _buildkit(
        "StageNameCasing",
        buildkit.stage_name_casing,
        "Stages have names in lower case.",
        "write the name behind AS in lower case",
    ),
    _buildkit(
        "FromAsCasing",
        buildkit.from_as_casing,
        "FROM and AS are both in upper case or both in lower case.",
        "write AS behind FROM, as behind from",
    ),
    _buildkit(
        "NoEmptyContinuation",
        buildkit.no_empty_continuation,
        "No empty line stands inside an instruction: it is skipped today, and Docker means to refuse it.",
        "remove the empty line, or make it a comment",
    ),
    _buildkit(
        "ConsistentInstructionCasing",
        buildkit.consistent_instruction_casing,
        "All instructions of a file are written in upper case, or all in lower case.",
        "write this instruction like the others",
    ),
    _buildkit(
        "DuplicateStageName",
        buildkit.duplicate_stage_name,
        "No two stages have one name: the later one would hide the earlier.",
        "give one of the stages another name",
    ),
    _buildkit(
        "ReservedStageName",
        buildkit.reserved_stage_name,
        "No stage is called context or scratch.",
        "give the stage another name",
    ),
    _buildkit(
        "JSONArgsRecommended",
        buildkit.json_args_recommended,
        "CMD and ENTRYPOINT are JSON arrays, so that the program itself receives the signals.",
        'write ["program", "argument"], or set a SHELL on purpose',
    ),
    _buildkit(
        "MaintainerDeprecated",
        buildkit.maintainer_deprecated,
        "The author of an image is told by a label, no longer by MAINTAINER.",
        'write LABEL org.opencontainers.image.authors="name"',
    ),
    _buildkit(
        "UndefinedArgInFrom",
        buildkit.undefined_arg_in_from,
        "Variables in FROM are declared by an ARG above the first FROM.",
        "declare the variable above the first FROM, with a default if there is a good one",
    ),
    _buildkit(
        "WorkdirRelativePath",
        buildkit.workdir_relative_path,
        "The first WORKDIR is absolute: another base image would move a relative one.",
        "begin the path with /",
    ),
    _buildkit(
        "UndefinedVar",
        buildkit.undefined_var,
        "Variables are set before they are used.",
        "set the variable with ENV, or declare it with ARG, above this line in this stage",
    ),
    _buildkit(
        "MultipleInstructionsDisallowed",
        buildkit.multiple_instructions_disallowed,
        "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage: only the last one counts.",
        "remove the one that has no effect",
    ),
    _buildkit(
        "LegacyKeyValueFormat",
        buildkit.legacy_key_value_format,
        "ENV and LABEL are written with an equals sign.",
        "write NAME=VALUE",
    ),
    _buildkit(
        "InvalidBaseImagePlatform",
        buildkit.invalid_base_image_platform,
        "A base image is for the platform that the build is for.",
        "pull the image for this platform, or build for the image's with --platform",
    ),
    _buildkit(
        "RedundantTargetPlatform",
        buildkit.redundant_target_platform,
        "FROM does not ask for the platform that it gets anyway.",
        "remove --platform",
    ),
    _buildkit(
        "SecretsUsedInArgOrEnv",
        buildkit.secrets_used_in_arg_or_env,
        "Secrets are not given by ARG or ENV: both are kept in the image.",
        "mount the secret for the one step that needs it: RUN --mount=type=secret,id=NAME",
    ),
    _buildkit(
        "InvalidDefaultArgInFrom",
        buildkit.invalid_default_arg_in_from,
        "The defaults of the ARGs in FROM give the name of an image, so that the file builds without build arguments.",
        "give the ARG a default that makes the name whole",
    ),
    _buildkit(
        "FromPlatformFlagConstDisallowed",
        buildkit.from_platform_flag_const_disallowed,
        "FROM leaves the platform to who builds.",
        "remove --platform, or use $BUILDPLATFORM; a stage that is for one platform has it in its name",
    ),
    _buildkit(
        "CopyIgnoredFile",
        buildkit.copy_ignored_file,
        "Nothing is copied that .dockerignore leaves out: it is not there.",
        "change the pattern in .dockerignore, or the source",
    ),
    _buildkit(
        "InvalidDefinitionDescription",
        buildkit.invalid_definition_description,
        "A comment right above ARG or a named FROM describes it, and begins with its name.",
        "begin the comment with the name, or put a line with only # below it",
        experimental=True,
    ),
    _buildkit(
        "ExposeProtoCasing",
        buildkit.expose_proto_casing,
        "The protocol in EXPOSE is in lower case.",
        "write /tcp, /udp or /sctp",
    ),
    _buildkit(
        "ExposeInvalidFormat",
        buildkit.expose_invalid_format,
        "EXPOSE names ports of the container only.",
        "write the container's port; ports of the host are opened by contain run --publish",
    ),
)


def _own(name: str, check: Callable[[Subject], Iterable[Found]], description: str, remedy: str) -> Rule:
    return Rule(
        name=name,
        group=Group.REPRODUCIBILITY,
        severity=Severity.NOTE,
        description=description,
        remedy=remedy,
        check=check,
    )


def _floating(name: str, installer: Installer, *, more: str = "", locked: bool = False) -> Rule:
    return _own(
        name,
        reproducibility.floating_packages(installer),
        f"Packages of {installer.name} are named with their version{more}.",
        f"name the version, as in {installer.example}" + (", or let contain lock pin it" if locked else ""),
    )


REPRODUCIBILITY_RULES: tuple[Rule, ...] = (
    _own(
        "FloatingBase",
        reproducibility.floating_base,
        "Base images are named by digest: a tag is moved to another image at any time.",
        "write IMAGE:TAG@sha256:DIGEST, or let contain lock pin it",
    ),
    _own(
        "UnverifiedAdd",
        reproducibility.unverified_add,
        "What ADD fetches is named by checksum or commit.",
        "give ADD --checksum=sha256:DIGEST, or the commit behind # for a git repository",
    ),
    _floating("FloatingAptPackage", installing.APT, locked=True),
    _floating("FloatingApkPackage", installing.APK),
    _floating("FloatingDnfPackage", installing.DNF, more=", also those of yum, microdnf and zypper"),
    _floating("FloatingPipPackage", installing.PIP, more=", also those of uv and pipx", locked=True),
    _floating("FloatingNpmPackage", installing.NPM, more=", also those of yarn and pnpm"),
    _floating("FloatingGemPackage", installing.GEM),
    _floating("FloatingGoPackage", installing.GO),
    _floating("FloatingCargoPackage", installing.CARGO),
    _own(
        "UnlockedDependencies",
        reproducibility.unlocked_dependencies,
        "Dependencies come from a lock file that is not changed on the way.",
        "use npm ci, yarn or pnpm install --frozen-lockfile, bundle install --frozen, cargo build --locked, uv sync --locked",
    ),
    _own(
        "PipWithoutHashes",
        reproducibility.pip_without_hashes,
        "Where pip reads a requirements file, it verifies the hashes in it.",
        "add --require-hashes, and the hashes to the file: pip-compile --generate-hashes, uv pip compile --generate-hashes",
    ),
    _own(
        "SystemUpgrade",
        reproducibility.system_upgrade,
        "The packages of the base image are not upgraded: a newer base image is the newer system.",
        "remove the upgrade, and pin a newer base image",
    ),
    _own(
        "StalePackageIndex",
        reproducibility.stale_package_index,
        "apt-get update and apt-get install stand in one RUN: else the cache joins an old index with new wishes.",
        "join both with && in one RUN",
    ),
    _own(
        "AptListsKept",
        reproducibility.apt_lists_kept,
        "The package index of apt does not stay in the layer: it is another one every day.",
        "end the RUN with && rm -rf /var/lib/apt/lists/*, or mount a cache: RUN --mount=type=cache,target=/var/lib/apt/lists",
    ),
    _own(
        "PackageCacheKept",
        reproducibility.package_cache_kept,
        "The caches of package managers do not stay in the layer: they hold times and whatever was fetched.",
        "use apk add --no-cache, pip install --no-cache-dir, dnf clean all in the same RUN, or mount a cache there",
    ),
    _own(
        "PipeToShell",
        reproducibility.pipe_to_shell,
        "No program is run straight from a download.",
        "download to a file, verify its checksum with sha256sum -c, then run it",
    ),
    _own(
        "UnverifiedDownload",
        reproducibility.unverified_download,
        "The RUN that downloads a file verifies its checksum or signature.",
        "add echo 'DIGEST  FILE' | sha256sum -c -, or use ADD --checksum=sha256:DIGEST",
    ),
    _own(
        "FloatingGit",
        reproducibility.floating_git,
        "A cloned repository is set to one commit.",
        "add git checkout COMMIT, or use ADD https://HOST/REPOSITORY.git#COMMIT",
    ),
    _own(
        "TimeAndChance",
        reproducibility.time_and_chance,
        "Nothing that is built depends on the time or on chance.",
        'take the time from SOURCE_DATE_EPOCH: date -d "@$SOURCE_DATE_EPOCH"; make keys and identifiers when the container starts',
    ),
)

RULES: tuple[Rule, ...] = (*BUILDKIT_RULES, *REPRODUCIBILITY_RULES)
"""All rules. Names are unique."""
