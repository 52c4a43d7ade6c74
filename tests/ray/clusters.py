"""A cluster of a head, which does no work, and nodes of one CPU; for a process of its own.

To be imported before Ray is.
"""

import contextlib
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path

# Every port on the loopback, and short waits for the dead.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_health_check_period_ms"] = "500"

from ray.cluster_utils import Cluster


@contextlib.contextmanager
def small_cluster(num_nodes=2):
    """Start one, and stop it in the end; gives it with its nodes."""
    with tempfile.TemporaryDirectory(prefix="difflm-ray-", dir="/tmp") as temporary:
        os.environ["RAY_TMPDIR"] = temporary
        head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            node = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
            yield cluster, [cluster.add_node(**node) for _ in range(num_nodes)]
        finally:
            cluster.shutdown()


def wait_for_death(mark):
    """Name the node of this process in the file `mark`, for `kill_marked`, and stay there."""
    import ray

    partial = Path(mark).with_suffix(".part")
    partial.write_text(ray.get_runtime_context().get_node_id())
    partial.rename(mark)
    time.sleep(600)


def kill_marked(cluster, nodes, mark):
    """Kill the node that the file `mark` names as soon as it is there, then write `killed` beside.

    Gives the thread that does.
    """

    def kill():
        while not Path(mark).exists():
            time.sleep(0.05)
        name = Path(mark).read_text()
        node = next(node for node in nodes if node.node_id == name)
        cluster.remove_node(node, allow_graceful=False)
        Path(mark).with_name("killed").touch()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    return killer
