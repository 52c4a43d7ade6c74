"""Stage jobs on the small finished run of the tests."""

from components.stage_job import StageJob, find_stage
from tests.people import people_config

GENERATION = {"num_rows": 60, "batch_rows": 30, "shard_rows": 30}


def generate_job(people_run, folder, run_id="run-1", **changes):
    """The job that generates from the finished run into a folder."""
    people_config(folder, generation={**GENERATION, **changes}, runtime={"threads": 1})
    return StageJob(
        find_stage("generate"),
        str(folder / "run.yaml"),
        {"generator": str(people_run / "generator")},
        str(folder / "out"),
        run_id,
    )
