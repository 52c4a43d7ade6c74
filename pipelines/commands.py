"""The commands `difflm pipeline ...`; kfp is imported when one runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from difflm_core.cli.console import SETTINGS, start_output
from difflm_core.cli.groups import add_command, command_group
from difflm_core.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.client import Server

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="Configuration (YAML) of the run.")
]
PipelineOption = Annotated[
    str, typer.Option("--pipeline", metavar="difflm|sweep", help="Which pipeline.")
]
ParamOption = Annotated[
    list[str],
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the pipeline, such as rows=1000; may be given several times.",
        default_factory=list,
        show_default=False,
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="URI", help="Run directory, instead of `output:`."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", envvar="KFP_ENDPOINT", metavar="URL", help="Kubeflow's API."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", envvar="KFP_NAMESPACE", help="Your namespace, if it has users."),
]
_TOKEN = "KFP_EXISTING_TOKEN"  # noqa: S105 - the name of a variable


def add_commands(app: typer.Typer) -> None:
    """Add the group `pipeline`."""
    group = command_group(
        "The stages as a Kubeflow pipeline.\n\n"
        "A parameter is one of the pipeline's: data, rows, seed, backend, the limits of its "
        "quality gate, and so on. The token of a server comes from the environment variable "
        f"{_TOKEN}."
    )
    add_command(group, compile_pipelines, "difflm pipeline compile", name="compile")
    add_command(
        group,
        run_local,
        "difflm pipeline run-local run.yaml --output runs/adult",
        "difflm pipeline run-local run.yaml -p rows=1000 -p shape_error_percent=2",
        "difflm pipeline run-local run.yaml -p backend=jobs -p address=http://127.0.0.1:8265",
        name="run-local",
    )
    add_command(
        group,
        submit,
        "difflm pipeline submit run.yaml --output s3://bucket/runs/adult --wait",
        "difflm pipeline submit run.yaml --pipeline sweep --endpoint http://127.0.0.1:8080",
    )
    add_command(group, status, "difflm pipeline status 1b2c3d4e")
    app.add_typer(group, name="pipeline")


def compile_pipelines(
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder; the one in the checkout."),
    ] = None,
) -> None:
    """Write the files that the dashboard takes: difflm.yaml and sweep.yaml."""
    _require_kfp()
    from pipelines.compile import COMPILED, compile_all

    for path in compile_all(Path(output) if output else COMPILED):
        print(path)


def run_local(
    config: ConfigArgument,
    params: ParamOption,
    output: RunOption = None,
    pipeline: PipelineOption = "difflm",
) -> None:
    """Run the pipeline on this machine, each step in a process of its own."""
    _require_kfp()
    from difflm_core.config_file import load_config
    from pipelines.local_run import run_locally
    from pipelines.parameters import parse_arguments

    settings = load_config(config)
    given = [f"config={config}", f"run={output or settings.output}", "backend=local", *params]
    run_locally(_known(pipeline), parse_arguments(pipeline, given))


def submit(
    config: ConfigArgument,
    params: ParamOption,
    output: RunOption = None,
    pipeline: PipelineOption = "difflm",
    endpoint: EndpointOption = None,
    namespace: NamespaceOption = None,
    service_account: Annotated[
        str | None,
        typer.Option(help="Of the steps, such as difflm-pipeline.", show_default="the server's"),
    ] = None,
    experiment: Annotated[str, typer.Option(help="What the run is listed under.")] = "difflm",
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Longest wait.")
    ] = 86_400,
) -> None:
    """Upload the pipeline to a Kubeflow server, and run it there."""
    _require_kfp()
    from difflm_core.config_file import load_config
    from pipelines.client import PipelineClient
    from pipelines.parameters import parse_arguments

    settings = load_config(config)
    given = [f"run={output or settings.output}", *params]
    arguments = parse_arguments(_known(pipeline), given)
    # The server does not see this machine's files: the text goes along.
    arguments.setdefault("config", _text(config))
    start_output()
    client = PipelineClient(_server(endpoint, namespace, service_account))
    run_id = client.submit(pipeline, arguments, experiment, name or f"{pipeline} {settings.seed}")
    print(run_id)
    if wait:
        client.wait(run_id, timeout_seconds)


def status(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run.")],
    endpoint: EndpointOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Tell how a run stands: its steps, and what has failed."""
    _require_kfp()
    from pipelines.client import PipelineClient

    state = PipelineClient(_server(endpoint, namespace)).state(run_id)
    print(state.state)
    if state.error:
        print(state.error)
    for name, task_state, error in state.tasks:
        print(f"{task_state:<10} {name}" + (f"  {error}" if error else ""))


def _server(endpoint: str | None, namespace: str | None, account: str | None = None) -> Server:
    from pipelines.client import Server

    return Server(endpoint, namespace, os.environ.get(_TOKEN), account)


def _text(config: str) -> str:
    from difflm_core import storage

    return storage.read_text(config)


def _known(pipeline: str) -> str:
    from pipelines.compile import NAMES

    if pipeline not in NAMES:
        raise ConfigError(f"--pipeline {pipeline}: expected one of {', '.join(NAMES)}.")
    return pipeline


def _require_kfp() -> None:
    if importlib.util.find_spec("kfp") is None:
        raise ConfigError(
            f"{SETTINGS.program} pipeline needs Kubeflow's SDK. Install it: "
            "pip install 'difflm-on-ray[kfp]'"
        )
