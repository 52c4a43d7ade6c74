"""Training groups on an embedded Ray: ranks, recovery, and errors as the worker worded them."""

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.ray_launcher import RayLauncher, RayOptions
from components.worker_size import WorkerSize
from difflm_core.errors import ConfigError, StageError
from difflm_core.parallel import Worker
from difflm_core.progress import Progress

# Ray Train takes 10 to 30 seconds to start a group, and as long to start it again.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class SumOfRanks:
    """Adds the ranks of all workers; the last of them is killed once if there is a marker."""

    marker: str | None = None

    def __call__(self, info):
        import torch
        import torch.distributed as dist

        last = info.rank == info.world_size - 1
        if self.marker and last and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        total = torch.tensor(info.rank + 1)
        if info.world_size > 1:
            dist.all_reduce(total)
        info.progress.event("summed", rank=info.rank, total=int(total))
        return Worker(info.rank, info.world_size), int(total), str(Path.cwd())


def expected(world_size):
    total = sum(range(1, world_size + 1))
    return [(Worker(rank, world_size), total, str(Path.cwd())) for rank in range(world_size)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_ranks(launcher, num_workers):
    handler = signal.getsignal(signal.SIGINT)
    assert launcher.run_workers(SumOfRanks(), num_workers) == expected(num_workers)
    # Ray Train would replace it for good.
    assert signal.getsignal(signal.SIGINT) is handler


class Listener:
    """A sink that keeps events."""

    interval_seconds = 1.0

    def __init__(self):
        self.events = []

    def event(self, name, values):
        self.events.append((name, values))


def test_what_the_first_worker_reports_arrives(launcher):
    listener = Listener()
    launcher.run_workers(SumOfRanks(), 2, Progress([listener]))
    assert listener.events == [("summed", {"rank": 0, "total": 3})]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_survived(launcher, tmp_path, num_workers):
    marker = tmp_path / "killed"
    assert launcher.run_workers(SumOfRanks(str(marker)), num_workers) == expected(num_workers)
    assert marker.exists()


def always_killed(info):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_group_that_always_dies_is_given_up(launcher):
    patient = RayLauncher(RayOptions(max_failures=1))
    patient._started = launcher._start()
    with pytest.raises(StageError) as caught:
        patient.run_workers(always_killed, 1)
    message = str(caught.value)
    # A worker that dies while its group is still put together counts as one that never started.
    given_up = "was given up: workers died 2 times, the last"
    not_started = "could not start on Ray: Worker unexpectedly exits"
    assert re.match(f"Training on 1 workers ({given_up}|{not_started})", message)
    assert "\n" not in message


def misconfigured(info):
    raise ConfigError("no such device")


def test_an_explained_error_keeps_its_type_and_message(launcher):
    with pytest.raises(ConfigError, match=r"^no such device$") as caught:
        launcher.run_workers(misconfigured, 2)
    assert caught.value.__cause__ is None


def defective(info):
    raise ZeroDivisionError("a defect")


def test_a_defect_is_raised_as_it_is_with_where_it_was(launcher):
    impatient = RayLauncher(RayOptions(max_failures=0))
    impatient._started = launcher._start()
    with pytest.raises(ZeroDivisionError, match=r"^a defect$") as caught:
        impatient.run_workers(defective, 1)
    assert "in defective" in str(caught.value.__cause__)


def test_more_than_the_cluster_has_is_refused_in_time(launcher):
    launcher._start()
    from components.worker_group import GroupOptions, run_group

    options = GroupOptions(2, 2, WorkerSize(1000), 0, start_timeout_seconds=10, logs="logs")
    with pytest.raises(StageError) as caught:
        run_group(SumOfRanks(), options)
    message = str(caught.value)
    assert message.startswith("Training on 2 workers could not start on Ray: ")
    assert "Each worker needs 1000 CPUs; the cluster has " in message
