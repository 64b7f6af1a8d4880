from __future__ import annotations

from contain.build.run.perform import step_failed
from contain.build.steps import RunStep
from contain.dockerfile import parse_dockerfile


def failed_run(text: str, *, status: int = 6) -> str:
    instruction = parse_dockerfile(f"FROM scratch\n{text}\n", file="Dockerfile").stages[0].instructions[-1]
    step = RunStep(
        instruction=instruction,
        created_by="RUN |1 TOKEN=hunter2 /bin/sh -c whatever",
        arguments=("/bin/sh", "-c", "whatever"),
        script=None,
        environment=(("TOKEN", "hunter2"),),
        network="default",
        security="sandbox",
        mounts=(),
        user="",
        working_directory="/",
    )
    return step_failed(step, status=status, why=f"exit code {status}", tail="").message


def test_a_failed_step_is_named_as_it_is_written_without_the_values_of_arguments() -> None:
    assert failed_run("RUN make  && \\\n  make $TOKEN") == "RUN make && make $TOKEN failed: exit code 6"


def test_a_long_command_is_cut_in_its_error() -> None:
    message = failed_run("RUN " + "echo long && " * 100 + "false")
    assert message.endswith("... failed: exit code 6")
    assert len(message) < 200
