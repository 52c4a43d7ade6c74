import pytest

from components.worker_size import WorkerSize, share_cpus, word_resources


@pytest.mark.parametrize(
    ("node_cpus", "free", "num_workers", "share"),
    [
        ([2], 2, 1, 2),
        ([2], 2, 2, 1),
        ([2], 2, 4, 1),  # more workers than cores: some wait, none gets nothing
        ([16] * 10, 160, 10, 16),
        ([16] * 10, 160, 1, 16),  # no worker is larger than a node
        ([16], 5, 2, 2),  # what others hold is not shared out
        ([], 0, 3, 1),
    ],
)
def test_workers_share_what_is_free(node_cpus, free, num_workers, share):
    assert share_cpus(node_cpus, free, num_workers) == share


def test_threads_that_are_asked_for_are_given():
    assert share_cpus([2], 2, 4, threads=3) == 3


def test_a_worker_reserves_a_gpu_only_if_it_uses_one():
    assert WorkerSize(4).resources == {"CPU": 4}
    assert WorkerSize(4, 1).resources == {"CPU": 4, "GPU": 1}


def test_resources_are_worded():
    assert str(WorkerSize(1)) == "1 CPU"
    assert str(WorkerSize(2, 1)) == "2 CPUs and 1 GPU"
    assert word_resources({"CPU": 0.5, "memory": 9e9}) == "0.5 CPUs"
    assert word_resources({}) == "0 CPUs"
