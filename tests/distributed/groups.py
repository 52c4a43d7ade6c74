"""Training the text-VAE in a group of processes on this machine, and watching its losses."""

import multiprocessing
import os
import tempfile
from pathlib import Path
from queue import Empty

from difflm_core.artifacts import ArtifactWriter, Corpus
from difflm_core.config import RuntimeConfig, VaeConfig
from difflm_core.parallel import Worker
from difflm_core.progress import Progress


class Recorder:
    """A sink that keeps the loss of every step, and every evaluation."""

    interval_seconds = 0.0

    def __init__(self):
        self.losses, self.evaluations = {}, []

    def start(self, report):
        pass

    def update(self, report):
        self.losses[report.done - 1] = report.metrics["loss"]

    def finish(self, report):
        pass

    def event(self, name, values):
        self.evaluations.append(values)


def train(corpus, output, settings, runtime, worker=None):
    """Train as the stage does; give losses by step, evaluations and the stage's report."""
    from difflm_core.stages.train_vae import _Training

    recorder = Recorder()
    place = (worker.rank, worker.world_size) if worker else (0, 1)
    training = _Training(
        VaeConfig(**settings),
        Corpus.open(str(corpus), verify=False),
        ArtifactWriter(str(output)),
        0,
        RuntimeConfig(device="cpu", **runtime),
    )
    report = training(Worker(*place, Progress([recorder])))
    return recorder.losses, recorder.evaluations, report


def _member(queue, meeting, rank, world_size, arguments):
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    queue.put((rank, train(*arguments, Worker(rank, world_size))))
    dist.barrier()
    dist.destroy_process_group()


def train_in_group(corpus, output, settings, runtime, world_size):
    """The same in a group of processes; the result is the first one's."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (str(corpus), str(output), settings, runtime)
        members = [
            context.Process(
                target=_member, args=(queue, Path(folder) / "meeting", rank, world_size, arguments)
            )
            for rank in range(world_size)
        ]
        for member in members:
            member.start()
        results = {}
        while len(results) < world_size:
            if any(member.exitcode not in (None, 0) for member in members):
                break
            try:
                rank, result = queue.get(timeout=1)
                results[rank] = result
            except Empty:  # look again whether one has died
                continue
        for member in members:
            if len(results) < world_size:
                member.kill()
            member.join()
        assert len(results) == world_size, "a member of the group died"
    return results[0]
