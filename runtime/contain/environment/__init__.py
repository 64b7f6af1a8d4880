"""Environments: facts about a place (an image, this host, a running container), and what differs between two of them.

`capture_image` and `capture_host` read facts from files; a probe inside a running place tells the rest (`python_probe`,
`parse_probe`, `with_runtime`). `compare` sets two `Environment` values side by side, `explain` ranks the differences
by a failing test, `render_terminal` and `render_json` show them. Nothing here starts a container.
"""

from contain.environment.capture import RootFiles, capture_host, capture_image, capture_root
from contain.environment.causes import LikelyCause, explain
from contain.environment.codec import dump_environment, load_environment
from contain.environment.compare import compare
from contain.environment.difference import Difference, EnvironmentDiff, FileDifference, FileGroup, NoiseGroup, NotComparable
from contain.environment.evidence import FailureEvidence
from contain.environment.facts import Environment, FileFact, Identity, Package, looks_secret, with_runtime
from contain.environment.plain_directory import DirectoryFiles
from contain.environment.report import render_json, render_terminal
from contain.environment.runtime import PROBE_COMMAND, SHELL_PROBE, RuntimeFacts, parse_probe, probe_here, python_probe
from contain.environment.secret_key import read_secret_key

__all__ = [
    "PROBE_COMMAND",
    "SHELL_PROBE",
    "Difference",
    "DirectoryFiles",
    "Environment",
    "EnvironmentDiff",
    "FailureEvidence",
    "FileDifference",
    "FileFact",
    "FileGroup",
    "Identity",
    "LikelyCause",
    "NoiseGroup",
    "NotComparable",
    "Package",
    "RootFiles",
    "RuntimeFacts",
    "capture_host",
    "capture_image",
    "capture_root",
    "compare",
    "dump_environment",
    "explain",
    "load_environment",
    "looks_secret",
    "parse_probe",
    "probe_here",
    "python_probe",
    "read_secret_key",
    "render_json",
    "render_terminal",
    "with_runtime",
]
