"""The benchmark sweep: the stages once for each table or seed, and their reports side by side."""

# kfp has no types for decorators, and its parameters are plain lists.
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeArgument=false
from kfp import dsl

from components.factory import DEFAULT_IMAGE, compare, finish, prepare
from difflm_core.artifacts import EvaluationReport
from pipelines.wiring import ONCE, STEP_POLICY, apply, place, run_stages

_PARALLELISM = 4


@dsl.pipeline(
    name="difflm-sweep",
    description="The same run for several tables or seeds, with mean and deviation of the scores.",
)
def sweep(
    # Kubeflow shows the default, and nobody changes it; more keys in one of them, and their order
    # would differ from one compilation to the next.
    runs: list = [{"seed": 0}, {"seed": 1}, {"seed": 2}],  # noqa: B006
    config: str = "",
    run: str = "",
    backend: str = "rayjob",
    address: str = "",
    image: str = DEFAULT_IMAGE,
    stage_image: str = "",
    replace_changed: bool = False,
) -> None:
    """Run the stages for each table or seed, and compare the reports.

    Args:
        runs: what differs between the runs: of each, any of `data`, `target`, `rows` and `seed`,
            and its `folder` below `run`; `seed-N` by default, if it has a seed.
        config: configuration of all: YAML, or the URI of a YAML file; empty: defaults.
        run: URI of the directory of all runs; empty: `output` of the configuration.
        backend: rayjob, jobs or local, as in the pipeline difflm.
        address: URL of a Ray cluster's job API, for the backend jobs.
        image: container image of the steps, which launch stages and look at what they made.
        stage_image: container image of the stages with the backend rayjob; empty: as the
            settings of the cluster say (ConfigMap difflm-stages).
        replace_changed: discard stages whose settings have changed instead of refusing the run.
    """
    where = place(backend, address, stage_image)
    end = apply(ONCE, finish(config=config, run=run, where=where), image)
    end.set_display_name("report and clean up")
    with dsl.ExitHandler(end, name="difflm sweep"):
        with dsl.ParallelFor(runs, name="runs", parallelism=_PARALLELISM) as changes:
            plan = prepare(
                config=config,
                run=run,
                data="",
                target="",
                rows=0,
                seed=-1,
                replace_changed=replace_changed,
                changes=changes,
                where=where,
            )
            apply(ONCE, plan, image)
            made = run_stages(plan.outputs["config"], plan.outputs["run"], where, image)
        table = compare(reports=dsl.Collected(made[EvaluationReport]))
        apply(STEP_POLICY, table, image)
