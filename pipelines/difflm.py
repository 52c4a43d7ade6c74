"""The pipeline: a table in; synthetic records, a report and, if it is good enough, an endpoint."""

# kfp has no types for decorators, and its parameters are plain lists.
# pyright: reportUntypedFunctionDecorator=false, reportMissingTypeArgument=false
from kfp import dsl

from components.factory import DEFAULT_IMAGE, check_quality, deploy, finish, prepare
from difflm_core.artifacts import EvaluationReport, GeneratorBundle
from pipelines.wiring import ONCE, STEP_POLICY, apply, place, run_stages


@dsl.pipeline(
    name="difflm",
    description="Synthetic records from real ones, a report, and an endpoint if it is good enough.",
)
def difflm(
    config: str = "",
    data: str = "",
    target: str = "",
    run: str = "",
    rows: int = 0,
    seed: int = -1,
    backend: str = "rayjob",
    address: str = "",
    image: str = DEFAULT_IMAGE,
    stage_image: str = "",
    replace_changed: bool = False,
    utility_loss_percent: float = 10.0,
    shape_error_percent: float = 5.0,
    trend_error_percent: float = 8.0,
    two_sample_auc: float = 0.8,
    invalid_rows: float = 0.0,
    copy_excess_percent: float = 0.5,
    membership_auc: float = 0.55,
) -> None:
    """Make synthetic records, evaluate them, and deploy the generator if the gate lets it pass.

    Args:
        config: configuration: YAML, or the URI of a YAML file; empty: defaults.
        data: URI of the real records; empty: `data.source` of the configuration.
        target: column that a downstream model predicts; empty: as the configuration says.
        run: URI of the run directory; empty: `output` of the configuration.
        rows: records to generate; 0: as the configuration says.
        seed: same seed, same records; negative: as the configuration says.
        backend: rayjob (a RayJob for each stage), jobs (the job API at `address`), or local (in
            the steps themselves: small tables only).
        address: URL of a Ray cluster's job API, for the backend jobs.
        image: container image of the steps, which launch stages and look at what they made.
        stage_image: container image of the stages with the backend rayjob; empty: as the
            settings of the cluster say (ConfigMap difflm-stages).
        replace_changed: discard stages whose settings have changed instead of refusing the run.
        utility_loss_percent: limit of the quality gate, as all below; negative: not looked at. How
            much worse a model does when it is trained on synthetic instead of real rows.
        shape_error_percent: mean difference of single columns.
        trend_error_percent: mean difference of pairs of columns.
        two_sample_auc: AUC of telling synthetic from real rows.
        invalid_rows: rows that break the schema.
        copy_excess_percent: exact copies of training rows beyond those among other real rows.
        membership_auc: AUC of guessing who was in the training table.
    """
    where = place(backend, address, stage_image)
    limits = {
        "utility_loss_percent": utility_loss_percent,
        "shape_error_percent": shape_error_percent,
        "trend_error_percent": trend_error_percent,
        "two_sample_auc": two_sample_auc,
        "invalid_rows": invalid_rows,
        "copy_excess_percent": copy_excess_percent,
        "membership_auc": membership_auc,
    }
    end = apply(ONCE, finish(config=config, run=run, where=where), image)
    end.set_display_name("report and clean up")
    with dsl.ExitHandler(end, name="difflm"):
        plan = prepare(
            config=config,
            run=run,
            data=data,
            target=target,
            rows=rows,
            seed=seed,
            replace_changed=replace_changed,
            changes={},
            where=where,
        )
        apply(ONCE, plan, image)
        made = run_stages(plan.outputs["config"], plan.outputs["run"], where, image)
        gate = check_quality(report=made[EvaluationReport], limits=limits)
        apply(STEP_POLICY, gate, image)
        gate.set_display_name("quality gate")
        with dsl.If(gate.outputs["Output"] == True, name="good enough"):  # noqa: E712 - a condition
            served = deploy(generator=made[GeneratorBundle], run=plan.outputs["run"], where=where)
            apply(STEP_POLICY, served, image)
