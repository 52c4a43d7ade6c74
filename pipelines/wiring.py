"""What the pipelines share: the six stages one after the other, with their policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes

from components.factory import stage_task
from difflm_core.artifacts import Artifact
from difflm_core.stages import load_stages


@dataclass(frozen=True)
class Policy:
    """How often Kubeflow tries a step again, and what its pod gets.

    The pod only submits and watches: with the backend rayjob, the work is in the stage's own pods.

    Attributes:
        retries: tries after the first. A stage continues where the last one stopped.
        wait_seconds: before the first of them; each wait is twice the one before.
        longest_wait_seconds: the longest of these waits.
        cpu: processors it asks for, and `cpu_limit` at most.
        memory: memory it asks for, and `memory_limit` at most.
    """

    retries: int = 2
    wait_seconds: int = 30
    longest_wait_seconds: int = 600
    cpu: str = "100m"
    cpu_limit: str = "2"
    memory: str = "512Mi"
    memory_limit: str = "4Gi"


# Long stages on nodes that come and go are tried more often; steps that only read and say, once.
POLICIES = {"train-vae": Policy(retries=4), "generate": Policy(retries=4)}
STAGE_POLICY = Policy()
STEP_POLICY = Policy(retries=1)
# A mistake of the user stays one: the first step is not tried again.
ONCE = Policy(retries=0)

# The credentials of the object store, as the fsspec packages for S3 read them. A step reads and
# writes there, too: configurations, manifests, reports.
STORE_SECRET = "difflm-storage"  # noqa: S105 - a name
_STORE_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
)


def apply(policy: Policy, task: Any, image: Any) -> Any:
    """Give a step its image, its policy, and the way to the object store."""
    task.set_container_image(image)
    kubernetes.use_secret_as_env(
        task, STORE_SECRET, {key: key for key in _STORE_KEYS}, optional=True
    )
    # See components/factory.py: a stage knows better what it may reuse.
    task.set_caching_options(False)
    task.set_cpu_request(policy.cpu).set_cpu_limit(policy.cpu_limit)
    task.set_memory_request(policy.memory).set_memory_limit(policy.memory_limit)
    if policy.retries:
        task.set_retry(
            num_retries=policy.retries,
            backoff_duration=f"{policy.wait_seconds}s",
            backoff_factor=2.0,
            backoff_max_duration=f"{policy.longest_wait_seconds}s",
        )
    return task


def place(backend: Any, address: Any, image: Any) -> dict[str, Any]:
    """Where the stages of a run are launched, as each step takes it (`components.stage_job.Where`).

    Args:
        backend: rayjob, jobs or local.
        address: URL of a job API, for the backend jobs.
        image: of the stages, for the backend rayjob.
    """
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    return {"backend": backend, "address": address, "image": image, "run_id": run_id}


def run_stages(
    config: Any, run: Any, where: dict[str, Any], image: Any
) -> dict[type[Artifact], Any]:
    """Run all stages in order; each waits for those that make its inputs.

    Args:
        config: URI of the configuration.
        run: URI of the run directory.
        where: backend, address, image (of the stages), run_id.
        image: image of the steps.

    Returns:
        The URI of each artifact, by its kind.
    """
    made: dict[type[Artifact], Any] = {}
    for stage in load_stages():
        inputs = {name: made[kind] for name, kind in stage.inputs.items()}
        task = stage_task(stage, config, inputs, run, where)
        apply(POLICIES.get(stage.name, STAGE_POLICY), task, image)
        task.set_display_name(stage.name)
        made[stage.output] = task.outputs["Output"]
    return made
