"""Trains a text-VAE in two workers on as many nodes or more, and kills the node of the second.

python -m tests.ray.node_killed_in_training RUN FOLDER NUM_NODES
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.ray.clusters import kill_marked, small_cluster, wait_for_death

# isort: split
from components.ray_launcher import open_launcher
from difflm_core.config_file import load_config
from difflm_core.stages.train_vae import STAGE
from tests.people import run_from
from tests.ray.saboteurs import Sabotaged, after_two_checkpoints


@dataclass(frozen=True)
class Waits:
    """Wraps what a training worker does: the second waits for death after two checkpoints.

    The first writes down, in the file `sizes`, how many there are.
    """

    function: Any
    mark: str

    def __call__(self, worker):
        def wait():
            if worker.rank == 1 and not Path(self.mark).exists():
                wait_for_death(self.mark)

        if worker.rank == 0:
            with Path(self.mark).with_name("sizes").open("a") as file:
                print(worker.world_size, file=file)
        with after_two_checkpoints(wait):
            return self.function(worker)


def places_of_results():
    """Nodes of the actor that keeps what the workers return."""
    from ray._private.state import actors

    return {a["Address"]["NodeID"] for a in actors().values() if a["ActorClassName"] == "_Results"}


def main(run, folder, num_nodes):
    mark = str(Path(folder, "waits"))
    config = load_config(str(Path(folder, "run.yaml")), [])
    with small_cluster(int(num_nodes)) as (cluster, nodes):
        killer = kill_marked(cluster, nodes, mark)
        with open_launcher(cluster.address, config.runtime) as launcher:
            sabotaged = Sabotaged(launcher, partial(Waits, mark=mark))
            run_from(run, STAGE, config, Path(folder, "out"), sabotaged)
            killer.join()
            # Elsewhere it would die with the node of a worker, and the run with it.
            assert places_of_results() == {cluster.head_node.node_id}


if __name__ == "__main__":
    main(*sys.argv[1:])
