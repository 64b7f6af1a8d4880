"""Completion in real shells: what is typed before the key is completed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

SECONDS = 30


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """``contain`` on the path, with a store of its own that holds one volume."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "contain"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m contain.cli.start "$@"\n')
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    made = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CONTAIN_HOME": str(tmp_path / "store"),
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "home/.config"),
        "ZDOTDIR": str(tmp_path / "home"),
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
        "PS1": "% ",
    }
    volume = tmp_path / "store/volumes/precious"
    volume.mkdir(parents=True)
    subprocess.run([program, "volume", "create", "treasure"], env=made, check=False, capture_output=True, timeout=SECONDS)
    return made


class Typist:
    """A shell on a pseudo terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.main, inner = pty.openpty()
        self.process = subprocess.Popen(
            command, env=environment, stdin=inner, stdout=inner, stderr=inner, start_new_session=True
        )
        os.close(inner)
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self.main, text)

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            ready, _, _ = select.select([self.main], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, (text, self.seen)
            self.seen += os.read(self.main, 65536)
        self.seen = self.seen.split(text, 1)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        os.close(self.main)


def test_bash_completes_verbs_flags_and_names(environment: dict[str, str]) -> None:
    bash = Typist(["bash", "--norc", "--noprofile", "-i"], environment)
    try:
        bash.type(b"source <(contain completion bash); bind 'set enable-bracketed-paste off'; echo re''ady\n")
        bash.expect(b"ready")
        bash.type(b"contain compl\t")
        bash.expect(b"completion ")
        bash.type(b"ba\x15contain contai\t pru\t--for\t")
        bash.expect(b"container ")
        bash.expect(b"prune ")
        bash.expect(b"--force ")
        bash.type(b"\x15contain volume rm treas\t")
        bash.expect(b"treasure ")
    finally:
        bash.close()


def test_what_the_bash_function_replies(environment: dict[str, str]) -> None:
    script = """
source <(contain completion bash)
COMP_WORDS=(contain volume ""); COMP_CWORD=2; _contain; echo "${COMPREPLY[*]}"
COMP_WORDS=(contain run --pull = n); COMP_CWORD=4; _contain; echo "${COMPREPLY[*]}"
COMP_WORDS=(contain volume rm tr); COMP_CWORD=3; _contain; echo "${COMPREPLY[*]}"
"""
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.stdout.splitlines() == ["create ls inspect rm prune list remove", "never", "treasure"], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_verbs_and_names(environment: dict[str, str]) -> None:
    zsh = Typist(["zsh", "-f", "-i"], environment)
    try:
        zsh.type(b"unsetopt zle_bracketed_paste 2>/dev/null; autoload -U compinit; compinit -u\n")
        zsh.type(b"source <(contain completion zsh); echo re''ady\n")
        zsh.expect(b"ready")
        zsh.type(b"contain volume rm treas\t")
        zsh.expect(b"ure ")
    finally:
        zsh.close()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_verbs_and_names(environment: dict[str, str]) -> None:
    script = 'contain completion fish | source; complete -C "contain volume rm tr"; complete -C "contain contai"'
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["treasure", "container"], done.stderr
