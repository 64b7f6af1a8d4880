"""What is known of a failing test, and the table of what its words speak for. Data; `causes` applies it.

Source of the classes: the usual reasons for "passes here, fails there" (reprotest's list of variations, public reports).
"""

from __future__ import annotations

from functools import cached_property

from contain.values import dataclass


@dataclass(frozen=True, kw_only=True)
class FailureEvidence:
    """What is known of one failing test. Everything may be empty; nothing is trusted to be short."""

    exception: str = ""  # the type's name: UnicodeDecodeError
    message: str = ""
    traceback_paths: tuple[str, ...] = ()
    text: str = ""  # the longrepr
    test: str = ""  # the node id
    modules: tuple[str, ...] = ()  # imported by the failing process

    @cached_property
    def said(self) -> str:
        """Type, message and text together, at most 64 KiB."""
        return f"{self.exception}: {self.message}\n{self.text}"[: 64 << 10]

    @cached_property
    def summary(self) -> str:
        """Type and message, at most 8 KiB, and the assertion lines of the text."""
        lines = [line[2:].strip() for line in self.text.split("\n") if line.startswith("E ")]
        return "\n".join([f"{self.exception}: {self.message}", *lines])[: 8 << 10]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``when`` (searched in the failure's type, message and assertion lines) speaks for ``targets`` with ``weight``.

    A target is a pattern of a topic or of ``dimension/key``; for files, of ``files/<path>`` and ``files/<aspect>``.
    ``why`` may name the matched text as ``{match}``.
    """

    when: str
    targets: tuple[str, ...]
    weight: float
    why: str


RULES: tuple[Rule, ...] = (
    Rule(
        when=r"\bUnicode(?:Decode|Encode)?Error\b|'(?:ascii|latin-1|charmap)' codec",
        targets=("locale",),
        weight=8,
        why="{match}: the locale decides how text is decoded and encoded",
    ),
    Rule(
        when=r"locale\.Error|unsupported locale setting",
        targets=(
            "locale",
            "locales/.*",
            "dpkg/locales.*",
        ),
        weight=8,
        why="{match}: the locale that was asked for must be installed",
    ),
    Rule(
        when=r"ZoneInfoNotFoundError|No time zone found|UnknownTimeZoneError",
        targets=("time-zone",),
        weight=8,
        why="{match}: the time zone database decides which zones exist",
    ),
    Rule(
        when=r"\b(?:datetime|tzinfo|timezone|utcoffset|localtime|strftime|mktime|tzname)\b"
        r"|\b(?:CES?T|E[SD]T|P[SD]T|GMT|UTC)\b",
        targets=("time-zone",),
        weight=2,
        why="the failure speaks of times ({match})",
    ),
    Rule(
        when=r"\b(?:ModuleNotFoundError|ImportError)\b",
        targets=(
            "sys-path/.*",
            "(?:image-)?environment/PYTHON(?:PATH|HOME)",
            "interpreter/(?:version|prefix|executable|flags)",
            r"python/\(.*moved\)",
        ),
        weight=2,
        why="{match}: where imports look differs",
    ),
    Rule(
        when=r"undefined symbol|cannot open shared object file|version `GLIBC",
        targets=(
            "libc/.*",
            "(?:dpkg|apk)/lib.*",
            "interpreter/(?:libc|extension ABI)",
            "(?:image-)?environment/LD_.*",
        ),
        weight=5,
        why="{match}: a shared library is missing or another",
    ),
    Rule(
        when=r"\bSyntaxError\b|unexpected keyword argument|has no attribute|required positional argument",
        targets=(
            "interpreter/version",
            r"(?:dpkg|apk)/python3(?:\.\d+)?",
        ),
        weight=2,
        why="{match}: another version of Python has another interface",
    ),
    Rule(
        when=r"\bPermissionError\b|Permission denied|Operation not permitted|\bE(?:ACCES|PERM)\b",
        targets=(
            "process/(?:user.*|group.*|umask|.*capabilities|no new.*|seccomp.*|security.*)",
            "image-config/user",
            "users/.*",
            "groups/.*",
            "files/mode.*",
            "files/owner.*",
            "kernel/security.*",
        ),
        weight=5,
        why="{match}: users, modes and privileges decide what is allowed",
    ),
    Rule(
        when=r"Read-only file system|\bEROFS\b|cross-device link|\bEXDEV\b"
        r"|No space left|\bENOSPC\b|Bus error|SIGBUS",
        targets=("mounts/.*",),
        weight=6,
        why="{match}: it depends on what is mounted where",
    ),
    Rule(
        when=r"\bMemoryError\b|out of memory|\bOOM\b"
        r"|\boom[-_ ]kill|SIGKILL|\bexit(?:ed)?(?: status| code)? 137\b|Cannot allocate memory",
        targets=(
            "limits/(?:memory|swap|machine memory)",
            "ulimits/(?:as|data|rss|memlock)",
            r"kernel/vm\.overcommit_memory",
        ),
        weight=8,
        why="{match}: the memory that a process may use differs",
    ),
    Rule(
        when=r"Too many open files|\bE[MN]FILE\b",
        targets=(
            "ulimits/nofile",
            r"kernel/fs\.file-max",
        ),
        weight=8,
        why="{match}: the number of files that may be open differs",
    ),
    Rule(
        when=r"can't start new thread|Resource temporarily unavailable|\bEAGAIN\b|\bBlockingIOError\b",
        targets=(
            "ulimits/(?:nproc|stack)",
            "limits/processes",
            r"kernel/kernel\.pid_max",
        ),
        weight=7,
        why="{match}: the number of processes and threads that may run differs",
    ),
    Rule(
        when=r"\bRecursionError\b|SIGSEGV|Segmentation fault",
        targets=(
            "ulimits/stack",
            "interpreter/version",
            "libc/.*",
        ),
        weight=4,
        why="{match}: stack size, Python and libc decide how deep calls may go",
    ),
    Rule(
        when=r"SIGILL|Illegal instruction",
        targets=("cpu/(?:features|model|architecture)",),
        weight=9,
        why="{match}: the processor lacks an instruction",
    ),
    Rule(
        when=r"Function not implemented|\bENOSYS\b",
        targets=(
            "kernel/.*",
            "process/seccomp.*",
        ),
        weight=6,
        why="{match}: kernel and seccomp policy decide which calls exist",
    ),
    Rule(
        when=r"\bSSL\w*Error\b|CERTIFICATE_VERIFY_FAILED|certificate verify failed|TLSV1|\[SSL",
        targets=(
            "interpreter/(?:OpenSSL|certificate file)",
            "(?:dpkg|apk|python)/(?:ca-certificates.*|openssl|libssl.*|certifi|cryptography|pyopenssl)",
            "(?:image-)?environment/(?:SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)",
            "files/.*(?:/ssl/|/ca-certificates).*",
        ),
        weight=7,
        why="{match}: certificates and OpenSSL decide whom TLS trusts",
    ),
    Rule(
        when=r"\bgaierror\b|Name or service not known|Temporary failure in name resolution|\bNameResolutionError\b",
        targets=("dns/.*",),
        weight=8,
        why="{match}: names are looked up in another way",
    ),
    Rule(
        when=r"\b(?:Connection\w*Error|ConnectTimeout|ProxyError)\b|Connection refused|Network is unreachable",
        targets=(
            "dns/.*",
            "(?:image-)?environment/(?i:https?_proxy|no_proxy|all_proxy)",
            "kernel/net.*",
        ),
        weight=4,
        why="{match}: network settings differ",
    ),
    Rule(
        when=r"\bTimeout\w*\b|timed out|\bdeadline\b",
        targets=(
            "limits/cpu",
            "cpu/(?:count|usable count|model)",
            "dns/.*",
        ),
        weight=3,
        why="{match}: less processor time makes everything slower",
    ),
    Rule(
        when=r"cpu_count|sched_getaffinity|max_workers|process_cpu_count",
        targets=(
            "cpu/(?:count|usable count)",
            "limits/cpu",
        ),
        weight=6,
        why="{match}: the number of processors differs",
    ),
    Rule(
        when=r"\b0o?1?00?[0-7]{3}\b|st_mode|\bumask\b",
        targets=("process/umask",),
        weight=6,
        why="{match}: the umask decides the mode of new files",
    ),
    Rule(
        when=r"command not found|No such file or directory|\bFileNotFoundError\b|\bNotADirectoryError\b",
        targets=(
            "image-config/working directory",
            "(?:image-)?environment/(?:PATH|HOME)",
            "process/home",
        ),
        weight=2,
        why="{match}: paths are looked up in another way",
    ),
    Rule(
        when=r"\bgetpwuid\b|getpwnam|uid not found|expanduser|Path\.home",
        targets=(
            "users/.*",
            "process/(?:user.*|home)",
            "image-config/user",
            "(?:image-)?environment/(?:HOME|USER)",
        ),
        weight=6,
        why="{match}: users differ",
    ),
    Rule(
        when=r"sqlite3\.\w*Error",
        targets=(
            "interpreter/SQLite",
            "(?:dpkg|apk)/libsqlite3.*",
            "apk/sqlite.*",
        ),
        weight=6,
        why="{match}: SQLite has another version",
    ),
)
