"""Two stages on an embedded Ray, and what its metrics endpoint shows after each, on stdout.

Run by `test_metrics.py` in a process of its own: counters belong to a Ray, and that of the other
tests has counted what they did.
"""

import sys
from pathlib import Path

from components.ray_launcher import RayLauncher, RayOptions
from difflm_core.config_file import load_config
from difflm_core.stages.generate import STAGE as GENERATE
from difflm_core.stages.train_diffusion import STAGE as TRAIN_DIFFUSION
from tests.people import run_from
from tests.ray.metrics_endpoint import to_json, wait_for


def main(run, folder):
    config = load_config(str(Path(folder, "run.yaml")), [])
    with RayLauncher(RayOptions(start_timeout_seconds=120)) as launcher:
        for stage, workers in ((GENERATE, 2), (TRAIN_DIFFUSION, 1)):
            runtime = config.runtime.model_copy(update={"num_workers": workers})
            settings = config.model_copy(update={"runtime": runtime})
            run_from(run, stage, settings, Path(folder, stage.name), launcher)
            import ray

            (node,) = ray.nodes()
            last = "difflm_stage_cpu_seconds_total"
            print(to_json(wait_for(node["MetricsExportPort"], last, stage=stage.name)))


if __name__ == "__main__":
    main(*sys.argv[1:])
