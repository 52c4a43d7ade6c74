"""Generates on a cluster of a head and two nodes, and kills the node that does shard 1.

python -m tests.ray.node_killed RUN FOLDER
"""

import os
import secrets
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Before Ray is imported: every port on the loopback, and short waits for the dead.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_health_check_period_ms"] = "500"

from ray.cluster_utils import Cluster

from components.ray_launcher import RayLauncher, RayOptions
from difflm_core.config_file import load_config
from difflm_core.stage import run_stage
from difflm_core.stages.generate import STAGE
from tests.ray.saboteurs import Sabotaged


@dataclass(frozen=True)
class Waits:
    """Wraps the maker of a worker: the first that has written rows of shard 1 waits for death."""

    make_worker: Any
    folder: str

    def __call__(self):
        worker = self.make_worker()

        def work(shard, on_rows):
            def wait_or_count(num_rows):
                mark = Path(self.folder, "waits")
                if shard.index == 1 and not mark.exists():
                    import ray

                    partial = mark.with_suffix(".part")
                    partial.write_text(ray.get_runtime_context().get_node_id())
                    partial.rename(mark)
                    time.sleep(600)
                on_rows(num_rows)

            worker(shard, wait_or_count)

        return work


def kill_node(cluster, nodes, folder):
    mark = Path(folder, "waits")
    while not mark.exists():
        time.sleep(0.05)
    node = next(node for node in nodes if node.node_id == mark.read_text())
    cluster.remove_node(node, allow_graceful=False)
    print("a node was killed with the work of a shard", flush=True)


def main(run, folder):
    with tempfile.TemporaryDirectory(prefix="difflm-ray-", dir="/tmp") as temporary:
        os.environ["RAY_TMPDIR"] = temporary
        head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
        killer = threading.Thread(target=kill_node, args=(cluster, nodes, folder), daemon=True)
        killer.start()
        config = load_config(str(Path(folder, "run.yaml")), [])
        options = RayOptions(address=cluster.address, start_timeout_seconds=120)
        try:
            with RayLauncher(options) as launcher:
                run_stage(
                    STAGE,
                    config.section(STAGE.config_type),
                    {"generator": str(Path(run, "generator"))},
                    str(Path(folder, "out")),
                    Sabotaged(launcher, partial(Waits, folder=folder)),
                    seed=config.seed,
                    runtime=config.runtime,
                )
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
