"""The flags of ``run`` and ``create`` about a container's life: restarts, health, log, its end."""

from __future__ import annotations

import argparse

from contain.annotations import TYPE_CHECKING
from contain.errors import ContainError, UsageError

if TYPE_CHECKING:
    from contain.container.request.keeping import Keeping

_DURATIONS = ("health_interval", "health_timeout", "health_start_period", "health_start_interval")


def add_keeping_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's names and defaults."""
    parser.add_argument(
        "--restart", metavar="POLICY", help="when it has ended: no (default), on-failure[:N], always or unless-stopped"
    )
    parser.add_argument("--stop-timeout", type=int, metavar="SECONDS", help="before `contain stop` kills it (-1: never)")
    parser.add_argument("--init", action="store_true", help="a first process that reaps and passes signals on")
    parser.add_argument("--health-cmd", metavar="COMMAND", help="for a shell inside: exit status 0 means that it does its work")
    parser.add_argument("--health-interval", metavar="TIME", help="between two looks (default 30s)")
    parser.add_argument("--health-timeout", metavar="TIME", help="for one look (default 30s)")
    parser.add_argument("--health-retries", type=int, metavar="N", help="failures in a row that make it unhealthy (default 3)")
    parser.add_argument("--health-start-period", metavar="TIME", help="at first, in which failures do not count")
    parser.add_argument("--health-start-interval", metavar="TIME", help="between two looks in that time (default 5s)")
    parser.add_argument("--no-healthcheck", action="store_true", help="leave out the image's health check")
    parser.add_argument("--log-driver", metavar="DRIVER", help="json-file (default), local or none")
    parser.add_argument(
        "--log-opt", action="append", default=[], metavar="NAME=VALUE", help="max-size=20m and max-file=5 are the defaults"
    )


def _seconds(options: argparse.Namespace, name: str) -> float | None:
    text = getattr(options, name)
    if text is None:
        return None
    from contain.dockerfile.literals import parse_duration_nanoseconds

    try:
        return parse_duration_nanoseconds(text) / 1e9
    except ContainError as error:
        flag = name.replace("_", "-")
        raise UsageError(
            f'invalid argument "{text[:40]}" for "--{flag}" flag: time: invalid duration',
            code="bad-health-check",
            remedy="for example 30s",
        ) from error


def parse_keeping(options: argparse.Namespace) -> Keeping:
    """What was asked. Raises `UsageError`, `NotSupported`."""
    from contain.cli.arguments import parse_pairs
    from contain.container.lifecycle.health import HealthRequest
    from contain.container.lifecycle.restarts import parse_restart
    from contain.container.request.keeping import Keeping, parse_log_settings, verify_keeping

    if options.stop_timeout is not None and options.stop_timeout < -1:
        raise UsageError("--stop-timeout is a number of seconds, or -1", code="bad-arguments")
    interval, timeout, start_period, start_interval = (_seconds(options, name) for name in _DURATIONS)
    keeping = Keeping(
        restart=parse_restart(options.restart or ""),
        health=HealthRequest(
            command=options.health_cmd,
            interval_seconds=interval,
            timeout_seconds=timeout,
            retries=options.health_retries,
            start_period_seconds=start_period,
            start_interval_seconds=start_interval,
            off=options.no_healthcheck,
        ),
        log=parse_log_settings(options.log_driver, list(parse_pairs(options.log_opt, flag="--log-opt"))),
        stop_grace_seconds=None if options.stop_timeout is None else float(options.stop_timeout),
        init=options.init,
    )
    verify_keeping(keeping, remove=options.rm)
    return keeping
