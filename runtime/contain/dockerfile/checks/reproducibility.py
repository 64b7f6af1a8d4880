# ruff: noqa: D103 - the table says what each function checks
"""The checks of our own: what makes two builds of one Dockerfile differ. One pure function each, from a `Subject` to objections.

They judge text, not what happened: a script that is copied in and run is not looked into, nor are the files that it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from contain.dockerfile.checks.installing import APK, APT, DNF, NPM, PIP, Installer, floating, installs
from contain.dockerfile.checks.rules import Found, Subject, at
from contain.dockerfile.checks.scopes import SCRATCH, InstructionScope
from contain.dockerfile.checks.scripts import SHELLS, RunScript, ShellCommand
from contain.dockerfile.instructions import Add, Copy, Instruction, Run
from contain.errors import UsageError
from contain.reference import parse_reference

HOST = "host"
_APT_LISTS = "/var/lib/apt"
_DOWNLOADERS = frozenset({"curl", "wget", "fetch", "aria2c"})
_INTERPRETERS = SHELLS | {"python", "python3", "perl", "ruby", "node", "php"}
_VERIFIERS = re.compile(r"(?:sha(?:1|224|256|384|512)|b2|md5)sum|shasum|gpgv?2?|cosign|minisign|openssl|rhash|sq|signify")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_GIT = re.compile(r"git@|git://|ssh://|(?:https?://.*\.git(?:[#?]|\Z))")


def _shown(names: Iterable[str]) -> str:
    listed = [name if len(name) <= 40 else name[:37] + "..." for name in names]
    return ", ".join(listed) if len(listed) <= 4 else f"{', '.join(listed[:3])} and {len(listed) - 3} more"


def _mounted(script: RunScript, path: str) -> bool:
    """Whether ``path`` lies in a mount of this RUN, so that nothing of it stays in the layer."""
    for mount in script.run.mounts:
        fields = dict(mount.fields)
        target = fields.get("target") or fields.get("dst") or fields.get("destination") or fields.get("id") or ""
        if fields.get("type") in ("cache", "tmpfs") and target and (path + "/").startswith(target.rstrip("/") + "/"):
            return True
    return False


# -- what a build starts from -----------------------------------------------------------------------------------------------


def floating_base(subject: Subject) -> Iterator[Found]:
    seen: set[tuple[str, str]] = set()
    for scope in subject.scopes:
        if scope.parent is None and (message := _floats(scope.base)):
            yield at(scope.stage.start, message)
        for step in scope.steps:
            instruction = step.instruction
            for name in _other_images(subject, instruction):
                message = _floats(name)
                if message and (name, instruction.text) not in seen:
                    seen.add((name, instruction.text))
                    yield at(instruction, message)


def _other_images(subject: Subject, instruction: Instruction) -> Iterator[str]:
    names: list[str] = []
    if isinstance(instruction, Copy) and instruction.from_stage:
        names.append(instruction.from_stage)
    elif isinstance(instruction, Run):
        names += [value for mount in instruction.mounts for key, value in mount.fields if key == "from" and value]
    for name in names:
        if subject.dockerfile.index_of_stage(name) is None and not name.isdigit():
            yield name


def _floats(name: str) -> str:
    """Why an image's name does not say which image is meant, or nothing."""
    if name in ("", SCRATCH) or "$" in name:
        return ""
    try:
        reference = parse_reference(name)
    except UsageError:
        return ""
    if reference.digest:
        return ""
    if reference.familiar.partition(":")[0] == HOST:
        return "host is this machine's root, which no other machine has"
    return f"{name} is whatever the tag points at on the day of the build"


def unverified_add(subject: Subject) -> Iterator[Found]:
    for scope in subject.scopes:
        for step in scope.steps:
            instruction = step.instruction
            if isinstance(instruction, Add) and instruction.checksum is None:
                for source in step.words:
                    if _GIT.match(source):
                        if not _COMMIT.search(source):
                            yield at(instruction, f"{source} is whatever is there on the day of the build")
                    elif source.startswith(("http://", "https://")):
                        yield at(instruction, f"nothing says which bytes {source} has to have")


# -- packages ---------------------------------------------------------------------------------------------------------------


def floating_packages(installer: Installer) -> Callable[[Subject], Iterator[Found]]:
    """The check of one package manager."""

    def check(subject: Subject) -> Iterator[Found]:
        for step, script in subject.scripts():
            for command in script.commands:
                names = floating(command, installer)
                if names:
                    program = command.program if command.program in installer.programs else installer.name
                    message = f"{program} installs whatever version there is of {_shown(names)}"
                    yield at(step.instruction, message, span=command.span)

    return check


def unlocked_dependencies(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        for command in script.commands:
            reason = _unlocked(command)
            if reason:
                yield at(step.instruction, reason, span=command.span)


def _unlocked(command: ShellCommand) -> str:
    program = command.program
    words = command.words
    if program in NPM.programs and installs(command, NPM) == () and not command.has_option("-g", "--global"):
        if program == "npm":
            return "npm install changes the lock file where it does not fit"
        if not command.has_option("--frozen-lockfile", "--immutable"):
            return f"{program} install changes the lock file where it does not fit"
    if program == "yarn" and not command.operands and not command.has_option("--frozen-lockfile", "--immutable", "--version"):
        return "yarn changes the lock file where it does not fit"
    if program == "bundle" and words[:1] == ("install",) and not command.has_option("--deployment", "--frozen"):
        return "bundle install changes the lock file where it does not fit"
    if program == "pipenv" and words[:1] == ("install",) and not command.has_option("--deploy", "--ignore-pipfile"):
        return "pipenv install goes on with a lock file that does not fit"
    if program == "composer" and words[:1] in (("update",), ("require",)):
        return f"composer {words[0]} looks for newer versions"
    if program == "cargo" and words[:1] in (("build",), ("install",)) and not command.has_option("--locked", "--frozen"):
        return f"cargo {words[0]} changes the lock file where it does not fit, or ignores it"
    if program == "uv" and words[:1] == ("sync",) and not command.has_option("--locked", "--frozen"):
        return "uv sync changes the lock file where it does not fit"
    return ""


def pip_without_hashes(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        for command in script.commands:
            if installs(command, PIP) is None or command.has_option("--require-hashes"):
                continue
            if command.has_option("-r", "--requirement") and "PIP_REQUIRE_HASHES" not in step.values:
                message = "pip takes any file that has the right name and version: it is not told to look at hashes"
                yield at(step.instruction, message, span=command.span)


def system_upgrade(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        for command in script.commands:
            if _upgrades(command):
                message = f"{command.program} replaces packages of the base image by the newest of the day"
                yield at(step.instruction, message, span=command.span)


def _upgrades(command: ShellCommand) -> bool:
    operands = [word.text for word in command.operands]
    if command.program in APT.programs:
        return any(word in ("upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade") for word in operands[:2])
    if command.program in APK.programs:
        return operands[:1] == ["upgrade"] or (operands[:1] == ["add"] and command.has_option("-u", "--upgrade"))
    if command.program == "zypper":
        return any(word in ("update", "up", "dup", "dist-upgrade", "patch") for word in operands[:1])
    if command.program in DNF.programs:
        return operands in (["update"], ["upgrade"], ["distro-sync"], ["upgrade-minimal"])
    return command.program == "pacman" and command.has_option("-u", "--sysupgrade")


def stale_package_index(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        updates = [command for command in script.commands if _updates_apt(command)]
        for index, command in enumerate(script.commands):
            packages = installs(command, APT)
            if not packages or all(word.text.startswith(("./", "/")) for word in packages):
                continue
            if not any(_updates_apt(each) for each in script.commands[:index]):
                message = f"{command.program} install relies on an index that an earlier step or the base image fetched"
                yield at(step.instruction, message, span=command.span)
                break
        if updates and not any(_uses_apt_index(command) for command in script.commands):
            message = f"the index that {updates[0].program} update fetches is cached with this step, and grows old"
            yield at(step.instruction, message, span=updates[0].span)


def _updates_apt(command: ShellCommand) -> bool:
    return command.program in APT.programs and any(word.text == "update" for word in command.operands[:2])


def _uses_apt_index(command: ShellCommand) -> bool:
    if command.program not in APT.programs:
        # A script may install what this step fetched the index for: only what is known not to is objected to.
        return command.program not in _NO_INSTALLERS
    return any(word.text not in ("update", "clean", "autoclean", "autoremove") for word in command.operands[:1])


_NO_INSTALLERS = frozenset(
    {
        "rm",
        "set",
        "echo",
        "true",
        "mkdir",
        "cd",
        "export",
        "test",
        "[",
        "sed",
        "cat",
        "touch",
        "chmod",
        "chown",
        "ln",
        "cp",
        "mv",
        ":",
    }
)


def apt_lists_kept(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        updates = [command for command in script.commands if _updates_apt(command)]
        if not updates or _mounted(script, _APT_LISTS + "/lists"):
            continue
        removed = any(_removes_lists(command) for command in script.commands)
        if not removed:
            message = "the index of the day stays in the layer, below /var/lib/apt/lists"
            yield at(step.instruction, message, span=updates[0].span)


def _removes_lists(command: ShellCommand) -> bool:
    if command.program in APT.programs:  # dist-clean: since apt 2.7
        return any(word.text in ("dist-clean", "distclean") for word in command.operands[:1])
    return command.program in ("rm", "find") and any(word.startswith((_APT_LISTS, "/var/lib/*")) for word in command.words)


def package_cache_kept(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        removed = " ".join(" ".join(each.words) for each in script.commands if each.program in ("rm", "find"))
        for command in script.commands:
            where = _kept_cache(command, script, step, removed)
            if where:
                yield at(
                    step.instruction,
                    f"what {command.program} downloads or notes down stays in the layer: {where}",
                    span=command.span,
                )
                break


def _kept_cache(command: ShellCommand, script: RunScript, step: InstructionScope, removed: str) -> str:
    if installs(command, APK) is not None:
        kept = "/var/cache/apk"
        good = command.has_option("--no-cache") or kept in removed or _mounted(script, kept)
        return "" if good else kept
    if installs(command, DNF) is not None:
        kept = (
            "/var/cache/zypp" if command.program == "zypper" else "/var/cache/" + ("yum" if command.program == "yum" else "dnf")
        )
        cleaned = any(each.program in DNF.programs and {"clean", "cc"} & set(each.words) for each in script.commands)
        return "" if cleaned or "/var/cache" in removed or _mounted(script, kept) else kept
    if installs(command, PIP) is not None and command.program not in ("uv", "pipx"):
        off = command.has_option("--no-cache-dir") or step.values.get("PIP_NO_CACHE_DIR", "0").lower() not in (
            "",
            "0",
            "off",
            "false",
            "no",
        )
        off = off or any(word.text.startswith("PIP_NO_CACHE_DIR=") for word in command.assignments)
        kept = "/root/.cache/pip"
        return "" if off or ".cache" in removed or _mounted(script, kept) else "~/.cache/pip"
    return ""


# -- downloads --------------------------------------------------------------------------------------------------------------


def pipe_to_shell(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        behind = script.behind()
        for command in script.commands:
            if command.program not in _DOWNLOADERS:
                continue
            runs = [each.program for each in behind(command) if _reads_its_input(each)]
            if runs or command.inside in (*_INTERPRETERS, "eval", "source", "."):
                program = runs[0] if runs else command.inside
                message = f"{program} runs whatever {command.program} is given, which nothing verifies"
                yield at(step.instruction, message, span=command.span)


def _reads_its_input(command: ShellCommand) -> bool:
    if command.program not in _INTERPRETERS:
        return False
    operands = [word.text for word in command.operands]
    return command.program in SHELLS or not operands or operands == ["-"] or "-" in command.words


def unverified_download(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        if any(_VERIFIERS.fullmatch(command.program) for command in script.commands):
            continue
        behind = script.behind()
        for command in script.commands:
            if command.program not in _DOWNLOADERS or command.inside:
                continue
            url = next((word.text for word in command.arguments if "://" in word.text), "")
            if url and _keeps_a_file(command, behind(command)):
                yield at(step.instruction, f"nothing says which bytes {_shown([url])} has to have", span=command.span)


def _keeps_a_file(command: ShellCommand, behind: list[ShellCommand]) -> bool:
    if any(target not in ("/dev/null", "/dev/stdout", "/dev/stderr") for target in command.targets):
        return True
    if any(each.program in _UNPACKERS for each in behind):
        return True
    if command.program == "curl":
        return (
            command.has_option("-o", "-O", "--output", "--remote-name", "--remote-name-all")
            and "/dev/null" not in command.words
        )
    if command.program == "wget":
        return not any(word in ("-O-", "-qO-", "-", "/dev/null", "--spider") or word.endswith("O-") for word in command.words)
    return True


_UNPACKERS = frozenset({"tar", "bsdtar", "unzip", "gunzip", "xz", "zstd", "cpio", "tee", "dd", "gzip", "bunzip2"})


def floating_git(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        fixed = any(
            command.program == "git"
            and {"checkout", "reset", "switch", "fetch"} & set(command.words)
            and any(_COMMIT.search(word.text) or word.dynamic for word in command.arguments)
            for command in script.commands
        )
        for command in script.commands:
            if command.program == "git" and "clone" in command.words and not fixed:
                message = "git clone takes the newest commit of a branch, or what a tag was moved to"
                yield at(step.instruction, message, span=command.span)


# -- chance and time --------------------------------------------------------------------------------------------------------


def time_and_chance(subject: Subject) -> Iterator[Found]:
    for step, script in subject.scripts():
        for command in script.commands:
            reason = _reason(command)
            if reason:
                yield at(step.instruction, reason, span=command.span)


def _reason(command: ShellCommand) -> str:
    words = command.words
    if command.program == "date" and not command.has_option("-d", "--date", "-r", "--reference", "-s"):
        return "date gives another answer in each build"
    if command.program in ("uuidgen", "ssh-keygen", "dbus-uuidgen", "systemd-machine-id-setup", "shuf"):
        return f"{command.program} gives another answer in each build"
    if command.program == "openssl" and words[:1] and words[0] in ("rand", "genrsa", "genpkey", "req", "ecparam", "dhparam"):
        return f"openssl {words[0]} gives another answer in each build"
    for word in (*command.arguments, *command.assignments):
        if "$RANDOM" in word.text or "${RANDOM" in word.text:
            return "$RANDOM is another number in each build"
        if word.text.endswith(("/dev/urandom", "/dev/random")) or word.text.startswith("/proc/sys/kernel/random/"):
            return f"{word.text.removeprefix('if=')} gives other bytes in each build"
    return ""
