"""Stages and the steps around them as Kubeflow components.

Each function below is a component: Kubeflow sends its source to a container of our image and calls
it there, so a body imports what it uses and does one thing. What the steps do is in
`components.steps`; only these functions know Kubeflow's types.

Caching by Kubeflow is off: it looks at parameters, and a URI says nothing about what lies there. A
stage reuses what it has finished itself, by the contents of its inputs.
"""

# Kubeflow reads the annotations as objects: no `from __future__ import annotations` here, and its
# parameters are plain `dict` and `list`.
# pyright: reportMissingTypeArgument=false, reportInvalidTypeForm=false, reportGeneralTypeIssues=false
# pyright: reportUnknownVariableType=false, reportArgumentType=false
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from kfp import dsl

from difflm_core.stage import Stage

DEFAULT_IMAGE = "difflm:0.1.0"


def component(function: Callable[..., Any]) -> Any:
    """Make a component that runs in our image, which holds everything it imports."""
    made: Any = dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
    return made(function)


@component
def prepare(
    config: str,
    run: str,
    data: str,
    target: str,
    rows: int,
    seed: int,
    replace_changed: bool,
    changes: dict,
    where: dict,
) -> NamedTuple("Prepared", [("config", str), ("run", str)]):
    """Check the whole run, and write down its configuration.

    Args:
        config: YAML, or the URI of a YAML file.
        run: URI of the run directory; empty: `output` of the configuration.
        data: overrides `data.source`; empty: no.
        target: overrides `data.target`; empty: no.
        rows: overrides `generation.num_rows`; 0: no.
        seed: overrides `seed`; negative: no.
        replace_changed: discard stages whose settings have changed instead of refusing the run.
        changes: of one run of a sweep: folder, data, target, rows, seed.
        where: backend, address, image, run_id.
    """
    from components import steps

    with steps.explained():
        return tuple(
            steps.prepare(config, run, data, target, rows, seed, replace_changed, changes, where)
        )


@component
def run_stage(
    stage: str,
    config: str,
    inputs: dict,
    run: str,
    where: dict,
    artifact: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> str:
    """Run a stage, check its output, and register it where it lies.

    Args:
        stage: name of the stage.
        config: URI of the configuration.
        inputs: URI of each input artifact.
        run: URI of the run directory.
        where: backend, address, image, run_id.
        artifact: what the stage has made.
        metrics: its figures.
        page: its report, or a page about it.
    """
    from components import dashboard, steps

    with steps.explained():
        made = steps.run_stage(stage, config, inputs, run, where)
        dashboard.show_artifact(made, artifact, metrics, page)
        return made.uri


@component
def check_quality(
    report: str,
    limits: dict,
    verdict: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Compare the report with limits; refused synthetic data is kept, but not deployed.

    Args:
        report: URI of the report.
        limits: what it may show at most; a negative limit is not looked at.
        verdict: each figure and its limit.
        metrics: the figures.
    """
    from components import dashboard, steps

    with steps.explained():
        result = steps.check_quality(report, limits)
        print(result.markdown())
        dashboard.write_page(verdict, result.markdown())
        dashboard.show_figures(result.figures(), metrics)
        return result.passed


@component
def deploy(
    generator: str,
    run: str,
    where: dict,
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Serve the generator: as a RayService, or as its manifest where there is no Kubernetes.

    Args:
        generator: URI of the generator.
        run: URI of the run directory.
        where: backend, address, image, run_id.
        summary: where it answers.
    """
    from components import dashboard, steps

    with steps.explained():
        text = steps.deploy(generator, where, run)
        print(text)
        dashboard.write_page(summary, text)


@component
def finish(
    status: dsl.PipelineTaskFinalStatus,
    config: str,
    run: str,
    where: dict,
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Sum the run up, and delete what it has left running.

    Args:
        status: how the run has ended.
        config: as for `prepare`.
        run: URI of the run directory; empty: it is in the configuration.
        where: backend, address, image, run_id.
        summary: state, error, finished stages.
    """
    from components import dashboard, steps

    with steps.explained():
        text = steps.finish(config, run, status.state, status.error_message, where)
        print(text)
        dashboard.write_page(summary, text)


@component
def compare(
    reports: list,
    table: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Put the reports of a sweep side by side.

    Args:
        reports: URI of each report.
        table: a row for each run, their mean and standard deviation.
        metrics: the means.
    """
    from components import dashboard, steps

    with steps.explained():
        text, means = steps.compare(reports)
        print(text)
        dashboard.write_page(table, text)
        dashboard.show_figures(means, metrics)


@functools.cache
def stage_component(stage: Stage) -> Any:
    """The component of a stage: `run_stage` under the stage's name."""
    made = component(run_stage.python_func)
    spec = made.component_spec
    spec.name = stage.name
    spec.description = stage.summary
    return made


def stage_task(
    stage: Stage, config: Any, inputs: dict[str, Any], run: Any, where: dict[str, Any]
) -> Any:
    """Put a stage into a pipeline.

    Args:
        stage: what runs.
        config: URI of the configuration.
        inputs: URI of each input, by the names of the stage's signature.
        run: URI of the run directory.
        where: backend, address, image, run_id.
    """
    if list(inputs) != list(stage.inputs):
        raise TypeError(f"{stage.name} takes {list(stage.inputs)}, found {list(inputs)}")
    return stage_component(stage)(
        stage=stage.name, config=config, inputs=inputs, run=run, where=where
    )
