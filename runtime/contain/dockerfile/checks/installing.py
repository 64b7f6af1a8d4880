"""How package managers are told to install, update and upgrade: data, and how to read a command by it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from contain.dockerfile.checks.scripts import ShellCommand, Word
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """One package manager.

    ``install``: the subcommands, each of one or two words, that install what is named behind them; an empty one: the program itself.
    ``valued``: options whose value is the next word. ``is_pinned``: whether a package is named with the one version that may come.
    ``example``: how a pinned package is written.
    """

    name: str
    programs: frozenset[str]
    install: tuple[tuple[str, ...], ...]
    valued: frozenset[str]
    is_pinned: Callable[[str], bool]
    example: str


def _matches(pattern: str) -> Callable[[str], bool]:
    expression = re.compile(pattern)
    return lambda text: expression.search(text) is not None


_LOCAL = re.compile(r"\.?\.?/|.*\.(?:deb|rpm|apk|whl|gem|tgz|tar\.gz|tar\.bz2|zip)\Z|file:|~/")
_VERSION = r"v?\d"

APT = Installer(
    name="apt",
    programs=frozenset({"apt-get", "apt", "aptitude"}),
    install=(("install",), ("reinstall",)),
    valued=frozenset({"-o", "--option", "-c", "--config-file", "-t", "--target-release", "--default-release", "-a"}),
    is_pinned=_matches(r"="),
    example="curl=7.88.1-10+deb12u8",
)
APK = Installer(
    name="apk",
    programs=frozenset({"apk"}),
    install=(("add",),),
    valued=frozenset({"-t", "--virtual", "-X", "--repository", "-p", "--root", "--repositories-file", "--arch"}),
    is_pinned=_matches(r"[^<>~=]=[^~]|="),
    example="curl=8.5.0-r0",
)
DNF = Installer(
    name="dnf",
    programs=frozenset({"dnf", "dnf5", "yum", "microdnf", "zypper", "tdnf"}),
    install=(("install",), ("in",), ("localinstall",), ("reinstall",)),
    valued=frozenset({"-c", "--config", "--enablerepo", "--disablerepo", "--setopt", "--releasever", "-r", "--repo", "-x"}),
    is_pinned=_matches(rf"-{_VERSION}[\w.+~:^]*-?|="),
    example="curl-7.76.1-29.el9",
)
PIP = Installer(
    name="pip",
    programs=frozenset({"pip", "pip3", "pip2", "uv", "pipx"}),
    install=(("install",), ("pip", "install"), ("tool", "install")),
    valued=frozenset(
        {
            *("-r", "--requirement", "-c", "--constraint", "-e", "--editable", "-i", "--index-url", "--extra-index-url"),
            *("-f", "--find-links", "-t", "--target", "--prefix", "--root", "--cache-dir", "--trusted-host", "--python", "-p"),
            *("--no-binary", "--only-binary", "--platform", "--python-version", "--timeout", "--retries", "--proxy", "--cert"),
            *("--progress-bar", "--src", "--log", "--upgrade-strategy", "-C", "--config-settings", "--global-option"),
        }
    ),
    is_pinned=_matches(r"===?[^=*]+\Z|===?[^*;]+;|@ .*#|git\+.*@[0-9a-f]{40}|#sha256=|@ ?https?://"),
    example="requests==2.32.3",
)
NPM = Installer(
    name="npm",
    programs=frozenset({"npm", "yarn", "pnpm"}),
    install=(("install",), ("i",), ("add",), ("global", "add")),
    valued=frozenset({"--prefix", "--registry", "-C", "--dir", "--loglevel", "--userconfig", "--cache", "--cwd", "-w"}),
    is_pinned=_matches(rf".@{_VERSION}+\.\d+\.\d+|#[0-9a-f]{{40}}|\.tgz\Z"),
    example="typescript@5.6.3",
)
GEM = Installer(
    name="gem",
    programs=frozenset({"gem"}),
    install=(("install",), ("i",)),
    valued=frozenset(
        {"-i", "--install-dir", "-n", "--bindir", "-s", "--source", "-P", "--trust-policy", "--document", "--platform"}
    ),
    is_pinned=_matches(rf":{_VERSION}"),
    example="bundler:2.5.22",
)
GO = Installer(
    name="go",
    programs=frozenset({"go"}),
    install=(("install",), ("get",)),
    valued=frozenset({"-ldflags", "-tags", "-mod", "-modfile", "-o", "-gcflags", "-asmflags", "-p"}),
    is_pinned=_matches(r"@(?!latest\b|upgrade\b|patch\b|main\b|master\b|HEAD\b).+"),
    example="golang.org/x/tools/gopls@v0.16.2",
)
CARGO = Installer(
    name="cargo",
    programs=frozenset({"cargo"}),
    install=(("install",),),
    valued=frozenset(
        {"--git", "--branch", "--tag", "--rev", "--path", "--root", "--features", "-F", "--target", "-j", "--index"}
    ),
    is_pinned=_matches(rf"@={_VERSION}|@{_VERSION}+\.\d+\.\d+"),
    example="ripgrep@14.1.1",
)


def installs(command: ShellCommand, installer: Installer) -> tuple[Word, ...] | None:
    """The operands behind the installer's subcommand; None for another command."""
    if command.program not in installer.programs:
        return _as_module(command, installer)
    return _operands(command.arguments, installer)


def _as_module(command: ShellCommand, installer: Installer) -> tuple[Word, ...] | None:
    """``python -m pip install``."""
    words = command.words
    if installer is PIP and re.fullmatch(r"python[\d.]*|pypy[\d.]*", command.program) and "-m" in words:
        index = words.index("-m")
        if words[index + 1 : index + 2] == ("pip",):
            return _operands(command.arguments[index + 2 :], installer)
    return None


def _operands(arguments: tuple[Word, ...], installer: Installer) -> tuple[Word, ...] | None:
    operands: list[Word] = []
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif word.text.startswith("-"):
            skip = word.text in installer.valued
        else:
            operands.append(word)
    texts = tuple(word.text for word in operands)
    for subcommand in installer.install:
        if texts[: len(subcommand)] == subcommand:
            return tuple(operands[len(subcommand) :])
    return None


def floating(command: ShellCommand, installer: Installer) -> tuple[str, ...]:
    """The packages that a command installs in whatever version there is. Names that only a variable knows are not judged."""
    packages = installs(command, installer)
    if packages is None or (installer is GEM and command.has_option("-v", "--version")):
        return ()
    if installer is CARGO and command.has_option("--version", "--path", "--rev", "--vers"):
        return ()
    if installer is PIP and command.has_option("-c", "--constraint"):
        return ()
    if installer is GO and not any("@" in word.text for word in packages):
        return ()  # of the module in the working directory, whose go.mod decides
    return tuple(
        word.text
        for word in packages
        if not word.dynamic
        and not word.text.endswith(("-", "+") if installer is APT else ())
        and not _LOCAL.match(word.text)
        and word.text != "."
        and not installer.is_pinned(word.text)
    )
