"""Generates on a cluster of a head and two nodes, and kills the node that does shard 1.

python -m tests.ray.node_killed RUN FOLDER
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.ray.clusters import kill_marked, small_cluster, wait_for_death

# isort: split
from components.ray_launcher import RayLauncher, RayOptions
from difflm_core.config_file import load_config
from difflm_core.stages.generate import STAGE
from tests.people import run_from
from tests.ray.saboteurs import Sabotaged


@dataclass(frozen=True)
class Waits:
    """Wraps the maker of a worker: the first that has written rows of shard 1 waits for death."""

    make_worker: Any
    mark: str

    def __call__(self):
        worker = self.make_worker()

        def work(shard, on_rows):
            def wait_or_count(num_rows):
                if shard.index == 1 and not Path(self.mark).exists():
                    wait_for_death(self.mark)
                on_rows(num_rows)

            worker(shard, wait_or_count)

        return work


def main(run, folder):
    mark = str(Path(folder, "waits"))
    config = load_config(str(Path(folder, "run.yaml")), [])
    with small_cluster() as (cluster, nodes):
        kill_marked(cluster, nodes, mark)
        options = RayOptions(address=cluster.address, start_timeout_seconds=120)
        with RayLauncher(options) as launcher:
            sabotaged = Sabotaged(launcher, partial(Waits, mark=mark))
            run_from(run, STAGE, config, Path(folder, "out"), sabotaged)


if __name__ == "__main__":
    main(*sys.argv[1:])
