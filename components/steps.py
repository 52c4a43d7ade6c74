"""What the steps of a pipeline do, without Kubeflow: plain values in, plain values out.

`components.factory` wraps each of them into a component. Files to show in the dashboard are
written to the paths that it names.
"""

from __future__ import annotations

import contextlib
import json
import logging
import statistics
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.stage_job import StageJob, Where, find_stage, read_where
from components.submit import launch, open_backend
from difflm_core import storage
from difflm_core.artifacts import EvaluationReport, GeneratorBundle, find_artifacts
from difflm_core.config import RunConfig
from difflm_core.config_file import load_config_text, to_yaml
from difflm_core.errors import ArtifactError, ConfigError, DiffLMError
from difflm_core.evaluation.gate import GateResult, check_report, read_limits
from difflm_core.progress import format_seconds
from difflm_core.stages.pipeline import artifact_uri, discard_changed, plan_pipeline
from difflm_core.stages.serialize import open_records

if TYPE_CHECKING:
    from difflm_core.artifacts import Artifact

PLAN_NAME = "pipeline.yaml"


@contextlib.contextmanager
def explained() -> Generator[None]:
    """Show what is launched, and end the step with the message of an error that has one.

    Kubeflow would show a traceback instead.
    """
    with _shown(logging.getLogger("difflm.submit")):
        try:
            yield
        except DiffLMError as error:
            print(f"Error: {error}", flush=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("Stopped. What is finished is kept.", flush=True)
            raise SystemExit(130) from None


@contextlib.contextmanager
def _shown(logger: logging.Logger) -> Generator[None]:
    """Show a log as it is; Kubeflow's executor would word its lines as its own."""
    before = (logger.level, logger.propagate)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class Prepared(NamedTuple):
    """What the other steps of a run work with.

    Attributes:
        config: URI of the configuration, complete and checked.
        run: URI of the run directory.
    """

    config: str
    run: str


def prepare(
    config: str,
    run: str = "",
    data: str = "",
    target: str = "",
    rows: int = 0,
    seed: int = -1,
    replace_changed: bool = False,
    changes: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Prepared:
    """Check a run from end to end before any work is done, and write down its configuration.

    Args:
        config: the configuration: YAML, or the URI of a YAML file.
        run: run directory; empty: `output` of the configuration.
        data: overrides `data.source`; empty: no.
        target: overrides `data.target`; empty: no.
        rows: overrides `generation.num_rows`; 0: no.
        seed: overrides `seed`; negative: no.
        replace_changed: discard finished stages whose settings have changed, and all after them,
            instead of refusing the run.
        changes: of one run of a sweep: any of data, target, rows, seed, and its folder below
            `run`; seed-N by default, if it has a seed.
        where: backend, address, image, run_id.

    Raises:
        ConfigError: a value is wrong.
        DiffLMError: the run would be refused.
    """
    values = {"data": data, "target": target, "rows": rows, "seed": seed}
    settings = _settings(config, run, values, changes or {})
    settings.require_source()
    _require_shared(settings, read_where(where or {}))
    open_records(settings.data)
    plans = plan_pipeline(settings, replace="changed" if replace_changed else "never")
    if replace_changed:
        discard_changed(plans)
    uri = storage.join(settings.output, PLAN_NAME)
    storage.write_text(uri, to_yaml(settings))
    for plan in plans:
        print(f"{plan.status:<8} {plan.stage:<16} {plan.uri}", flush=True)
    return Prepared(uri, settings.output)


def _require_shared(settings: RunConfig, where: Where) -> None:
    """Refuse places that the pods of a RayJob do not share."""
    if where.backend != "rayjob":
        return
    for key, uri in (("run", settings.output), ("data", settings.data.source or "")):
        if storage.is_local(uri):
            raise ConfigError(
                f"{key}: {uri!r} is a path in one pod, and the pods of the backend rayjob share "
                "no files. Expected a URI, such as s3://bucket/runs/adult."
            )


def _settings(
    config: str, run: str, values: Mapping[str, Any], changes: Mapping[str, Any]
) -> RunConfig:
    known = {"folder", *values}
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: a run of a sweep has no such key; expected any of "
            f"{', '.join(sorted(known))}."
        )
    values = {**values, **{key: value for key, value in changes.items() if key != "folder"}}
    overrides: list[str] = []
    if values["data"]:
        overrides.append(f"data.source={json.dumps(values['data'])}")
    if values["target"]:
        overrides.append(f"data.target={json.dumps(values['target'])}")
    if int(values["rows"]):
        overrides.append(f"generation.num_rows={int(values['rows'])}")
    if int(values["seed"]) >= 0:
        overrides.append(f"seed={int(values['seed'])}")
    settings = load_config_text(config, overrides)
    output = run or settings.output
    if changes:
        output = storage.join(output, _folder(changes))
    return settings.model_copy(update={"output": output})


def _folder(changes: Mapping[str, Any]) -> str:
    if changes.get("folder"):
        return str(changes["folder"])
    if "seed" in changes:
        return f"seed-{int(changes['seed'])}"
    raise ConfigError(
        f"A run of the sweep has no folder: {', '.join(changes)}. Add `folder`, a name of its own."
    )


def run_stage(
    stage: str, config: str, inputs: Mapping[str, str], output: str, where: Mapping[str, Any]
) -> Artifact:
    """Run a stage where the pipeline says, and check what it has made.

    Raises:
        DiffLMError: it could not be run, has failed, or has left no valid output.
    """
    place = read_where(where)
    job = stage_job(stage, config, inputs, output, place)
    return launch(job, open_backend(place))


def stage_job(
    stage: str, config: str, inputs: Mapping[str, str], output: str, where: Where
) -> StageJob:
    """One stage of a pipeline's run.

    Args:
        stage: its name.
        config: URI of the configuration.
        inputs: URI of each input.
        output: run directory; the artifact goes into its own folder there.
        where: where it runs.
    """
    found = find_stage(stage)
    return StageJob(found, config, inputs, artifact_uri(output, found.output), where.run_id)


def check_quality(report: str, limits: Mapping[str, Any]) -> GateResult:
    """Compare the report of a run with limits.

    Raises:
        ConfigError: a limit is unknown or no number.
        ArtifactError: there is no valid report.
    """
    allowed = read_limits(limits)
    artifact = EvaluationReport.open(report)
    return check_report(json.loads(storage.read_text(artifact.path("report.json"))), allowed)


def deploy(generator: str, where: Mapping[str, Any], run: str) -> str:
    """Serve a generator: as a RayService of this namespace, or as a manifest in the run directory.

    Returns:
        What was done, in Markdown.

    Raises:
        DiffLMError: there is no valid generator, or the service does not become ready.
    """
    from components.rayservice import apply_service, write_service

    GeneratorBundle.open(generator)
    place = read_where(where)
    if place.backend == "rayjob":
        return apply_service(generator, place)
    return write_service(generator, place, run)


def finish(config: str, run: str, state: str, error: str | None, where: Mapping[str, Any]) -> str:
    """Sum a run up, and remove what it has left running.

    Args:
        config: as for `prepare`.
        run: as for `prepare`.
        state: how it has ended, in Kubeflow's words.
        error: why, if it has failed.
        where: backend, address, image, run_id.

    Returns:
        The state, the error and the finished stages, in Markdown.
    """
    place = read_where(where)
    lines = [f"# Run {state.lower()}", ""]
    if error:
        lines += [f"Error: {error}", ""]
    # A configuration that cannot be read has failed the run already.
    with contextlib.suppress(ConfigError):
        uri = run or load_config_text(config).output
        lines += [f"Artifacts: `{uri}`", "", *_stage_table(uri)]
    if place.backend == "rayjob" and place.run_id:
        from components.rayjob import delete_unfinished, in_cluster

        deleted = delete_unfinished(in_cluster(), place.run_id)
        if deleted:
            lines += ["", f"Deleted, since the run has ended: {', '.join(deleted)}"]
    return "\n".join(lines) + "\n"


def _stage_table(run: str) -> list[str]:
    try:
        found = find_artifacts(run)
    except ArtifactError as error:
        return [f"{error}"]
    if not found:
        return ["No stage has finished."]
    made = sorted(found.items(), key=lambda item: item[1].provenance.created_utc)
    rows = [
        f"| {manifest.stage} | {folder} | {format_seconds(manifest.provenance.duration_seconds)} "
        f"| {manifest.provenance.created_utc} |"
        for folder, manifest in made
    ]
    return ["| stage | artifact | time | finished |", "|-|-|-:|-|", *rows]


def compare(reports: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Put the reports of a sweep side by side.

    Returns:
        Markdown with a row for each report and their mean and standard deviation; and the means.

    Raises:
        ArtifactError: a report is missing or not valid.
    """
    summaries = {uri: EvaluationReport.open(uri).manifest.summary for uri in reports}
    names = [
        name
        for name in next(iter(summaries.values()), {})
        if all(isinstance(summary.get(name), int | float) for summary in summaries.values())
    ]
    lines = [f"| run | {' | '.join(names)} |", "|-" * (len(names) + 1) + "|"]
    for uri, summary in summaries.items():
        label = Path(uri).parent.name or uri
        lines.append(f"| {label} | {' | '.join(f'{summary[name]:.4g}' for name in names)} |")
    columns = {name: [float(summary[name]) for summary in summaries.values()] for name in names}
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    spread = {
        name: statistics.stdev(values) if len(values) > 1 else 0.0
        for name, values in columns.items()
    }
    cells = [f"{means[name]:.4g} ± {spread[name]:.2g}" for name in names]
    lines.append(f"| **mean ± sd** | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n", means
