"""How many processors a worker takes, from what a cluster has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerSize:
    """What one worker reserves; its threads are as many as its CPUs."""

    num_cpus: int
    num_gpus: int = 0

    @property
    def resources(self) -> dict[str, float]:
        """As Ray names them."""
        gpus = {"GPU": float(self.num_gpus)} if self.num_gpus else {}
        return {"CPU": float(self.num_cpus), **gpus}

    def __str__(self) -> str:
        return word_resources(self.resources)


def share_cpus(
    node_cpus: Sequence[float], free_cpus: float, num_workers: int, threads: int | None = None
) -> int:
    """Number of CPUs for each worker: what is asked for, else an even share of what is free.

    Args:
        node_cpus: CPUs of each node.
        free_cpus: CPUs that nobody has reserved, in the whole cluster.
        num_workers: workers that share them.
        threads: CPUs that each worker shall have; None: an even share, at most a whole node.
    """
    if threads:
        return threads
    return max(1, int(min(free_cpus // num_workers, max(node_cpus, default=1))))


def word_resources(resources: Mapping[str, float]) -> str:
    """Word CPUs and GPUs for a message."""
    kinds = ["CPU", *(["GPU"] if resources.get("GPU") else [])]
    counts = [(resources.get(kind, 0.0), kind) for kind in kinds]
    return " and ".join(f"{count:g} {kind}{'' if count == 1 else 's'}" for count, kind in counts)
