"""All stages in order, in one run directory.

    <output>/corpus  vae  latents  generator  synthetic  report     one artifact each
    <output>/run.yaml                                               the whole configuration

Running again reuses what is finished and continues what is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from difflm_core import storage
from difflm_core.artifacts import (
    Artifact,
    Corpus,
    EvaluationReport,
    GeneratorBundle,
    Latents,
    SyntheticData,
    VaeCheckpoint,
)
from difflm_core.config import RunConfig
from difflm_core.config_file import to_yaml
from difflm_core.errors import StageError
from difflm_core.outputs import OutputPlan, PlanStatus, Replace, discard_output, locked_output
from difflm_core.parallel import Launcher
from difflm_core.progress import Sink
from difflm_core.stage import Stage, make_recipe, plan_stage, run_stage
from difflm_core.stages import load_stages
from difflm_core.tensorboard import require_tensorboard

_LOGGER = logging.getLogger("difflm.pipeline")
RUN_CONFIG_NAME = "run.yaml"
FOLDERS: dict[type[Artifact], str] = {
    Corpus: "corpus",
    VaeCheckpoint: "vae",
    Latents: "latents",
    GeneratorBundle: "generator",
    SyntheticData: "synthetic",
    EvaluationReport: "report",
}


@dataclass(frozen=True)
class StageResult:
    """What a run made of one stage: its plan before, its artifact after."""

    stage: str
    status: PlanStatus
    artifact: Artifact


OnStage = Callable[[int, int, OutputPlan], None]


def artifact_uri(run_uri: str, kind: type[Artifact]) -> str:
    """Directory of the artifact of this kind in a run directory."""
    return storage.join(run_uri, FOLDERS[kind])


def plan_pipeline(
    config: RunConfig,
    *,
    replace: Replace = "never",
    stages: Sequence[Stage] | None = None,
) -> list[OutputPlan]:
    """Tell what a run would do, without doing it.

    Raises:
        DiffLMError: the run would be refused.
    """
    config.require_source()
    stages = load_stages() if stages is None else stages
    if any(stage.output is EvaluationReport for stage in stages):
        config.require_test_records()
    plans: list[OutputPlan] = []
    for stage in stages:
        cfg = config.section(stage.config_type)
        uri = artifact_uri(config.output, stage.output)
        require_tensorboard(config.runtime.tensorboard, uri)
        plans.append(plan_stage(stage, _recipe_so_far(stage, cfg, config, plans), uri, replace))
    return plans


def _recipe_so_far(
    stage: Stage, cfg: Any, config: RunConfig, plans: Sequence[OutputPlan]
) -> dict[str, Any]:
    """Make the recipe of a stage; without inputs if one of them is still to be made."""
    finished = {plan.uri for plan in plans if plan.status == "reuse"}
    uris = {name: artifact_uri(config.output, kind) for name, kind in stage.inputs.items()}
    if all(uri in finished for uri in uris.values()):
        inputs = {name: kind.open(uris[name]) for name, kind in stage.inputs.items()}
        return make_recipe(stage, cfg, inputs, config.seed)
    recipe = make_recipe(stage, cfg, {}, config.seed)
    del recipe["inputs"]
    return recipe


def run_pipeline(
    config: RunConfig,
    launcher: Launcher | None = None,
    *,
    replace: Replace = "never",
    sinks: Sequence[Sink] = (),
    stages: Sequence[Stage] | None = None,
    on_stage: OnStage | None = None,
) -> list[StageResult]:
    """Run all stages in the run directory `config.output`.

    Args:
        config: the configuration of the run.
        launcher: where the work runs; this process by default.
        replace: when an earlier output of a stage is replaced instead of reused or refused.
        sinks: where progress goes.
        stages: the stages to run, in order; all six by default.
        on_stage: called before each stage with its number (from 1), the number of stages, and
            its plan.

    Raises:
        DiffLMError: the configuration or an output folder does not allow the run (before any
            work), or a stage could not finish.
    """
    stages = load_stages() if stages is None else stages
    plans = plan_pipeline(config, replace=replace, stages=stages)
    _discard_all(plans)
    results: list[StageResult] = []
    made: dict[type[Artifact], Artifact] = {}
    for number, (stage, plan) in enumerate(zip(stages, plans, strict=True), start=1):
        if on_stage:
            on_stage(number, len(stages), plan)
        artifact = run_stage(
            stage,
            config.section(stage.config_type),
            {name: _made(made, stage, kind) for name, kind in stage.inputs.items()},
            plan.uri,
            launcher,
            seed=config.seed,
            runtime=config.runtime,
            replace="changed" if replace == "always" else replace,
            sinks=sinks,
        )
        made[stage.output] = artifact
        results.append(StageResult(stage.name, plan.status, artifact))
    storage.write_text(storage.join(config.output, RUN_CONFIG_NAME), to_yaml(config))
    return results


def _discard_all(plans: Sequence[OutputPlan]) -> None:
    """Empty what will be replaced before anything is made, so that a rerun never mixes the two."""
    for plan in plans:
        if plan.status == "replace":
            with locked_output(plan.stage, plan.uri):
                discard_output(plan.uri, plan.stage)


def discard_changed(plans: Sequence[OutputPlan]) -> None:
    """Empty the outputs that will be replaced, and all that later stages have made from them.

    For runs whose stages start apart from each other: each then finds nothing that it must refuse.
    """
    changed = False
    for plan in plans:
        changed = changed or plan.status == "replace"
        if changed and plan.status != "run":
            with locked_output(plan.stage, plan.uri):
                discard_output(plan.uri, plan.stage)


def _made(made: dict[type[Artifact], Artifact], stage: Stage, kind: type[Artifact]) -> Artifact:
    if kind not in made:
        raise StageError(f"{stage.name}: no stage before it makes its input {kind.kind()}.")
    return made[kind]


def fit_pipeline(
    config: RunConfig,
    output: str,
    launcher: Launcher | None = None,
    *,
    replace: Replace = "never",
    sinks: Sequence[Sink] = (),
    stages: Sequence[Stage] | None = None,
    on_stage: OnStage | None = None,
) -> Artifact:
    """Run the stages up to the generator, and put the generator at `output`.

    What the other stages make stays in `<output>.run` until the generator is complete, so that a
    stopped fit continues; then it is removed.

    Returns:
        The `GeneratorBundle` at `output`.

    Raises:
        DiffLMError: as `run_pipeline`.
    """
    work_uri = output.rstrip("/") + ".run"
    stages = load_stages() if stages is None else stages
    last = next(i for i, stage in enumerate(stages) if stage.output is GeneratorBundle)
    config = config.model_copy(update={"output": work_uri})
    config.require_source()
    require_tensorboard(config.runtime.tensorboard, output, work_uri)
    *earlier, final = stages[: last + 1]
    total = len(earlier) + 1
    cfg = config.section(final.config_type)
    recipe = make_recipe(final, cfg, {}, config.seed)
    del recipe["inputs"]
    plan = plan_stage(final, recipe, output, replace)
    if plan.status == "reuse" and not storage.exists(work_uri):
        raise StageError(
            f"{output}: this folder holds a finished model. Choose another output folder, or add "
            "--fresh to train it anew."
        )
    _discard_all([plan])

    def announce(number: int, _: int, stage_plan: OutputPlan) -> None:
        if on_stage:
            on_stage(number, total, stage_plan)

    results = run_pipeline(
        config, launcher, replace=replace, sinks=sinks, stages=earlier, on_stage=announce
    )
    made = {type(result.artifact): result.artifact for result in results}
    announce(total, total, plan)
    bundle = run_stage(
        final,
        cfg,
        {name: _made(made, final, kind) for name, kind in final.inputs.items()},
        output,
        launcher,
        seed=config.seed,
        runtime=config.runtime,
        replace="changed" if replace == "always" else replace,
        sinks=sinks,
    )
    storage.remove_tree(work_uri)
    return bundle
