"""How a container is kept alive, watched and logged: what was asked, and what it comes to with the image's own wishes. Pure.

Source of flags, defaults and words: docker/cli ``container_run.md`` and the Docker daemon's checks.
"""

from __future__ import annotations

import re

from contain.container.lifecycle.health import HealthRequest, resolve_health, verify_request
from contain.errors import NotSupported, UsageError
from contain.oci import ImageConfig
from contain.spec import HealthCheck, LogSettings, RestartPolicy
from contain.values import dataclass

DRIVERS = ("json-file", "local", "none")
_DOCKERS_DRIVERS = ("syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "etwlogs", "gcplogs")
_DOCKERS_OPTIONS = ("compress", "mode", "max-buffer-size", "labels", "labels-regex", "env", "env-regex", "tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What ``contain run`` was asked about a container's life. ``stop_grace_seconds`` None: as whoever stops it says."""

    restart: RestartPolicy = RestartPolicy()
    health: HealthRequest = HealthRequest()
    log: LogSettings = LogSettings()
    stop_grace_seconds: float | None = None
    init: bool = False

    def check_of(self, config: ImageConfig) -> HealthCheck | None:
        """The container's health check."""
        return resolve_health(self.health, config.healthcheck, config.shell)


def verify_keeping(keeping: Keeping, *, remove: bool) -> None:
    """Raises `UsageError` in Docker's words for what cannot be together."""
    if remove and keeping.restart.name != "no":
        raise UsageError(
            "conflicting options: cannot specify both --restart and --rm", code="conflicting-options", remedy="leave one out"
        )
    verify_request(keeping.health)


def parse_log_settings(driver: str | None, options: list[tuple[str, str]]) -> LogSettings:
    """``--log-driver`` and ``--log-opt``. Raises `UsageError`, `NotSupported`.

    Docker's ``json-file`` keeps everything until the disk is full unless told otherwise; here both drivers that keep anything keep what
    Docker's ``local`` does: five files of 20 MiB. ``max-size=-1`` keeps everything.
    """
    default = LogSettings()
    driver = driver or default.driver
    if driver in _DOCKERS_DRIVERS:
        raise NotSupported(f"the log driver {driver!r} is not supported", code="log-driver", remedy=f"use {', '.join(DRIVERS)}")
    if driver not in DRIVERS:
        raise UsageError(
            f'logger: no log driver named "{driver}" is registered', code="log-driver", remedy=f"use {', '.join(DRIVERS)}"
        )
    size, files = default.max_bytes, default.files
    for name, value in options:
        if name in _DOCKERS_OPTIONS:
            raise NotSupported(
                f"--log-opt {name} is not supported", code="log-option", remedy="there are max-size and max-file"
            )
        if name not in ("max-size", "max-file") or driver == "none":
            raise UsageError(
                f"unknown log opt '{name}' for {driver} log driver",
                code="log-option",
                remedy="`none` takes no options" if driver == "none" else "there are max-size and max-file",
            )
        if name == "max-size":
            from contain.declared import parse_size_bytes

            size = 0 if value == "-1" else parse_size_bytes(value, what="--log-opt max-size")
            if size < 0 or (size == 0 and value != "-1"):
                raise UsageError("max-size should be a positive number", code="log-option", remedy="-1 keeps everything")
        else:
            if not re.fullmatch(r"[0-9]{1,4}", value):
                raise UsageError(f"invalid max-file {value[:20]!r}: it is a number", code="log-option")
            files = int(value)
            if files < 1:
                raise UsageError("max-file cannot be less than 1", code="log-option")
    return LogSettings(driver=driver, max_bytes=size, files=files)
