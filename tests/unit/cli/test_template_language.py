"""Templates after ``--format``: what people write gives what Docker gives."""

from __future__ import annotations

from typing import Any

import pytest

from contain.cli.templates import render_rows, render_template
from contain.errors import NotSupported, UsageError

VALUE: dict[str, Any] = {
    "Name": "/web",
    "Id": "0123456789abcdef",
    "State": {"Status": "running", "Running": True, "Pid": 12, "ExitCode": 0},
    "Mounts": [{"Source": "/a", "Destination": "/x", "RW": True}, {"Source": "/b", "Destination": "/y", "RW": False}],
    "Config": {"Labels": {"com.example.x": "1", "plain": "two"}, "Env": ["A=1", "B=2"], "Cmd": None},
    "NetworkSettings": {
        "IPAddress": "10.0.0.2",
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "53/udp": None},
        "Networks": {"bridge": {"IPAddress": "10.0.0.2"}, "other": {"IPAddress": "10.1.0.2"}},
    },
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.State.Status}}", "running"),
        ("{{ .State.Status }} {{.State.Pid}}", "running 12"),
        ("{{json .State}}", '{"Status":"running","Running":true,"Pid":12,"ExitCode":0}'),
        ("{{.State.Status | json}}", '"running"'),
        ("{{json .Config.Cmd}}", "null"),
        ("{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}", "/a:/x /b:/y "),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}};{{end}}", "0=/a;1=/b;"),
        ("{{range $m := .Mounts}}{{$m.Source}}{{$.Name}} {{end}}", "/a/web /b/web "),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{.NetworkSettings.IPAddress}}", "10.0.0.2"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.0.0.2 10.1.0.2 "),
        ("{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{end}}", "bridge other "),
        ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "10.0.0.2"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}}{{end}}", None),
        ('{{index .Config.Labels "com.example.x"}}', "1"),
        ('{{index .Config.Labels "not there"}}', ""),
        ("{{.Config.Labels.plain}}", "two"),
        ("{{.Config.Labels.nothing}}", "<no value>"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if not .State.Running}}down{{else if eq .State.Pid 12}}twelve{{else}}else{{end}}", "twelve"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{with .State}}{{.Status}}{{end}}{{with .Config.Cmd}}x{{else}}-{{end}}", "running-"),
        ('{{join .Config.Env ", "}}', "A=1, B=2"),
        ('{{index (split .Name "/") 1}}', "web"),
        ("{{upper .State.Status}} {{lower `ABC`}} {{title .State.Status}}", "RUNNING abc Running"),
        ('{{slice .Id 0 4}} {{truncate .Id 3}} {{pad "x" 1 2}}|', "0123 012  x  |"),
        ("{{len .Mounts}} {{len .Config.Env}}", "2 2"),
        (
            "{{println .Name}}{{print 1 2}} {{printf `%s-%05d %q %v%%` .Name .State.Pid .Name true}}",
            '/web\n1 2 /web-00012 "/web" true%',
        ),
        ('{{if and .State.Running (gt .State.Pid 3)}}yes{{end}}{{if or false ""}}no{{end}}', "yes"),
        ('{{eq .State.Status "exited" "running"}} {{ne 1 2}} {{lt 1 2}} {{ge 1 2}}', "true true true false"),
        ("{{$x := .Name}}{{$x}}{{$x = .Id}}{{len $x}}", "/web16"),
        ("a {{- .State.Pid -}} b", "a12b"),
        ("{{/* nothing */}}x", "x"),
        ('{{"}}"}}', "}}"),
        ("{{.}}", None),
        ("plain", "plain"),
        ("{{.State.Running}}{{.State.ExitCode}}", "true0"),
        ("{{.Config.Env}}", "[A=1 B=2]"),
    ],
)
def test_a_template_shows_what_docker_shows(template: str, expected: str | None) -> None:
    if expected is None:
        return
    assert render_template(template, VALUE) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{.State.Status",
        "{{}}",
        "}}",
        "{{if .Name}}",
        "{{end}}",
        "{{else}}",
        "{{if .Name}}a{{else}}b{{else}}c{{end}}",
        "{{.Nope}}",
        "{{.State.Nope}}",
        "{{.State.Pid.x}}",
        "{{nope .Name}}",
        "{{$x}}",
        "{{.Name | }}",
        "{{| .Name}}",
        "{{(.Name}}",
        "{{.Name)}}",
        "{{range .State.Pid}}{{end}}",
        "{{index .Mounts 7}}",
        '{{index .Mounts "x"}}',
        "{{index .Config.Cmd 0}}",
        "{{len .State.Pid}}",
        '{{lt .State.Pid "x"}}',
        "{{.Name .Id}}",
        "{{.Name ~}}",
        '{{"\\q"}}',
        "{{slice .Id 9 2}}",
        "{{upper}}",
    ],
)
def test_what_is_no_template_or_does_not_fit_is_a_clear_error(template: str) -> None:
    with pytest.raises(UsageError):
        render_template(template, VALUE)


@pytest.mark.parametrize("template", ['{{define "x"}}{{end}}', '{{template "x"}}', "{{break}}"])
def test_what_is_not_supported_is_refused_by_name(template: str) -> None:
    with pytest.raises(NotSupported, match=template[2:6]):
        render_template(template, VALUE)


def test_a_table_has_the_headings_of_its_fields() -> None:
    rows = [{"ID": "1", "Names": "web"}, {"ID": "22", "Names": "x"}]
    shown = render_rows("table {{.ID}}\\t{{upper .Names}}", rows, headings={"ID": "CONTAINER ID", "Names": "NAMES"})
    assert shown.splitlines() == ["CONTAINER ID   NAMES", "1              WEB", "22             X"]


def test_json_is_a_line_for_each() -> None:
    assert render_rows("json", [{"A": 1}, {"A": "x"}], headings={}) == '{"A":1}\n{"A":"x"}\n'


def test_a_label_is_asked_for_by_name_in_rows_and_documents() -> None:
    assert render_template('{{.Label "com.x"}}', {"Labels": "a=1,com.x=two"}) == "two"
    assert render_template('{{.Config.Label "plain"}}{{.Config.Label "none"}}', VALUE) == "two"


EMPTY: dict[str, Any] = {
    "Id": "0123",
    "Config": {"Cmd": None, "Entrypoint": None, "Env": None, "Labels": None, "Volumes": {"/data": {}}},
    "HostConfig": {
        "CapAdd": None,
        "MemorySwappiness": None,
        "Sysctls": None,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    },
    "NetworkSettings": {"Ports": {"53/udp": None, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
    "Mounts": [],
    "State": {"Status": "created"},
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.Config.Cmd}} {{.Config.Entrypoint}} {{.Config.Env}} {{.HostConfig.CapAdd}}", "[] [] [] []"),
        ("{{json .Config.Cmd}} {{json .Config.Labels}} {{json .HostConfig.MemorySwappiness}}", "null null null"),
        ("{{.Config.Labels}} {{.HostConfig.Sysctls}} {{.Config.ExposedPorts}}", "map[] map[] map[]"),
        ("{{json .Config.ExposedPorts}} {{.Config.OnBuild}} {{.Config.Shell}}", "null [] []"),
        ("{{.HostConfig.MemorySwappiness}} {{.State.Health}} {{.Config.Healthcheck}} {{.SizeRw}}", "<nil> <nil> <nil> <nil>"),
        ("{{.Config.Volumes}}", "map[/data:{}]"),
        ("{{.NetworkSettings.Ports}}", "map[53/udp:[] 80/tcp:[{0.0.0.0 8080}]]"),
        ("{{.HostConfig.RestartPolicy}} {{.Mounts}} {{.ID}}", "{no 0} [] 0123"),
        ("{{.Config.MacAddress}}|{{.Config.NetworkDisabled}}|{{.Config.Tty}}", "|false|false"),
        ('{{.Config.Labels.nothing}} {{index .Config.Labels "nothing"}}|', "<no value> |"),
        ("{{len .Config.Cmd}} {{len .Config.Labels}} {{join .Config.Cmd `,`}}|", "0 0 |"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}} {{with .Config.Labels}}x{{else}}none{{end}}", "none none"),
        ("{{range $k, $v := .Config.Labels}}x{{end}}{{if .Config.Cmd}}x{{else}}empty{{end}}", "empty"),
        ("{{printf `%s %v` .Config.Cmd .Config.Labels}}", "[] map[]"),
        ("{{not .Config.Cmd}} {{and .Config.Cmd 1}} {{or .Config.Cmd `default`}}", "true [] default"),
    ],
)
def test_what_is_empty_is_shown_as_go_shows_it(template: str, expected: str) -> None:
    assert render_template(template, EMPTY) == expected


@pytest.mark.parametrize("template", ["{{index .Config.Cmd 0}}", "{{slice .Config.Cmd 0 1}}", "{{.HostConfig.Nonsense}}"])
def test_nothing_comes_out_of_what_is_empty(template: str) -> None:
    with pytest.raises(UsageError):
        render_template(template, EMPTY)
