"""A container in Docker's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contain.cli.inspection import container_document, render_time, split_command
from contain.cli.templates import render_template
from contain.cli.updating import merge_limits, named_limits
from contain.container.lifecycle.records import ContainerRecord
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.spec import Limits
from contain.values import replace

DETAILS: dict[str, Any] = {
    "hostname": "box",
    "layers": ["/layers/a/tree", "/layers/b/tree"],
    "upper": "/containers/x/upper",
    "environment": [["PATH", "/bin"], ["A", "1"]],
    "working_directory": "/srv",
    "identity": {"user_id": 1000, "group_id": 1000, "groups": []},
    "mounts": [
        {"source": "/src", "target": "/dst", "read_only": True, "beneath": None},
        {"name": "data", "source": "/v/data", "target": "/data", "read_only": False, "copy": True, "anonymous": False},
        {"name": "f" * 64, "source": "/v/f", "target": "/own", "read_only": False, "copy": True, "anonymous": True},
        {"target": "/run", "size_bytes": 1024, "mode": 0o1777},
    ],
    "network": "bridge",
    "limits": {"memory_bytes": 1 << 20, "cpus": 1.5, "pids": 2048},
    "labels": [["com.example.x", "1"]],
    "ports": [
        {"container_port": 80, "protocol": "tcp", "host_address": "0.0.0.0", "first_host_port": 8080, "last_host_port": 8080}
    ],
    "restart": {"name": "on-failure", "retries": 3},
    "terminal": True,
    "interactive": True,
}
RECORD = ContainerRecord(
    container_id="a" * 64,
    name="web",
    image_name="small",
    image_digest="sha256:1",
    arguments=("sh", "-c", "true"),
    created_seconds=1_700_000_000.25,
    state="running",
    process_id=7,
    started_seconds=1_700_000_001.0,
    details=DETAILS,
)


def document(record: ContainerRecord = RECORD, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "paused": False,
        "health": None,
        "image": None,
        "network": {"IPAddress": "10.0.0.2"},
        "mounts": [],
        "effective": None,
    }
    return container_document(record, Path("/containers/x"), **{**values, **changes})


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{.Name}} {{.Path}} {{json .Args}}", '/web sh ["-c","true"]'),
        ("{{.State.Status}} {{.State.Running}} {{.State.Pid}} {{.State.ExitCode}}", "running true 7 0"),
        ("{{.Created}}", "2023-11-14T22:13:20.250000000Z"),
        ("{{.State.FinishedAt}}", "0001-01-01T00:00:00Z"),
        ("{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", "1048576 1500000000 2048"),
        ("{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}", "on-failure:3"),
        ("{{json .HostConfig.Binds}}", '["/src:/dst:ro","data:/data"]'),
        ("{{json .HostConfig.PortBindings}}", '{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}'),
        ("{{json .Config.ExposedPorts}}", '{"80/tcp":{}}'),
        ("{{.Config.Hostname}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.Image}}", "box 1000:1000 /srv small"),
        ("{{json .Config.Env}} {{.Config.Tty}} {{.Config.OpenStdin}}", '["PATH=/bin","A=1"] true true'),
        ('{{index .Config.Labels "com.example.x"}}', "1"),
        ("{{.NetworkSettings.IPAddress}}", "10.0.0.2"),
        ("{{if .State.Health}}yes{{else}}no{{end}}", "no"),
        ("{{.GraphDriver.Data.LowerDir}}", "/layers/b/tree:/layers/a/tree"),
        ("{{.Config.StopSignal}} {{.HostConfig.NetworkMode}}", "SIGTERM bridge"),
    ],
)
def test_what_scripts_ask_for_is_answered_as_docker_does(template: str, shown: str) -> None:
    assert render_template(template, document()) == shown


def test_it_is_json() -> None:
    assert json.loads(json.dumps(document()))["Id"] == "a" * 64


@pytest.mark.parametrize(
    ("state", "status", "last", "code"),
    [("created", None, None, 0), ("exited", 3, 3, 3), ("running", None, 9, 9), ("dead", None, None, 137)],
)
def test_the_exit_code_is_a_number_in_every_state(state: str, status: int | None, last: int | None, code: int) -> None:
    record = replace(RECORD, state=state, status=status, last_status=last)
    assert document(record)["State"]["ExitCode"] == code


def test_sizes_and_health_are_there_when_they_were_asked_for() -> None:
    found = document(sizes=(1, 2), health={"Status": "healthy"})
    assert (found["SizeRw"], found["SizeRootFs"], found["State"]["Health"]["Status"]) == (1, 2, "healthy")
    assert "SizeRw" not in document()


def test_the_images_entrypoint_is_told_from_the_arguments() -> None:
    assert split_command(("a", "b", "c"), ("a",)) == (["a"], ["b", "c"])
    assert split_command(("x", "b"), ("a",)) == (None, ["x", "b"])
    assert split_command(("a",), ("a",)) == (["a"], None)


def test_times_are_gos() -> None:
    assert render_time(None) == "0001-01-01T00:00:00Z"
    assert render_time(0.5) == "1970-01-01T00:00:00.500000000Z"


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    named = named_limits(Limits(memory_bytes=5, cpus=2.0), pids=False)
    assert named == {"memory_bytes": 5, "cpus": 2.0}
    assert merge_limits({"memory_bytes": 1, "pids": 9}, named) == {"memory_bytes": 5, "cpus": 2.0, "pids": 9}
    assert merge_limits({"pids": 9}, named_limits(Limits(pids=-1), pids=True)) == {"pids": None}


def test_a_container_tells_which_capabilities_it_got_beyond_and_below_the_default() -> None:
    default = sorted(DEFAULT_CAPABILITIES)

    def shown(**more: Any) -> tuple[object, object]:
        config = document(replace(RECORD, details={**DETAILS, **more}))["HostConfig"]
        return config["CapAdd"], config["CapDrop"]

    assert shown(capabilities=default) == (None, None)
    assert shown(capabilities=[*default[1:], "NET_ADMIN"]) == (["CAP_NET_ADMIN"], [f"CAP_{default[0]}"])
    assert shown(capabilities=[]) == (None, ["ALL"])
    assert shown(capabilities=list(CAPABILITY_NUMBERS)) == (["ALL"], None)
    assert shown(capabilities=list(CAPABILITY_NUMBERS), confinement={"privileged": True}) == (None, None)


def test_links_of_the_default_network_are_told_as_docker_writes_them() -> None:
    endpoints = [{"network": "bridge", "links": [["f" * 64, "db"]]}, {"network": "own", "links": [["e" * 64, "x"]]}]
    config = document(replace(RECORD, details={**DETAILS, "networking": {"endpoints": endpoints}}))["HostConfig"]
    assert config["Links"] == [f"/{'f' * 64}:/web/db"]
    assert document()["HostConfig"]["Links"] is None


def test_scripts_find_dockers_keys() -> None:
    config = document()["HostConfig"]
    assert {"Cgroup", "CgroupParent", "ConsoleSize", "CpuRealtimePeriod", "DeviceRequests", "Isolation"} <= set(config)
    assert config["BlkioDeviceReadBps"] == []
