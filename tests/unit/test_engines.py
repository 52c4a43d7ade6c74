"""Engines and shares: what is refused before work, and who does which rows."""

import importlib.util

import pytest
from torch import nn

from difflm_core.collective import require_shares, share_of
from difflm_core.engines import OptimizerOptions, Sharding, build_engine
from difflm_core.errors import ConfigError
from difflm_core.parallel import Worker


def test_zero_without_deepspeed_says_what_to_install(monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "deepspeed" else original(name)
    )
    with pytest.raises(ConfigError, match=r"runtime\.zero_stage = 1: DeepSpeed is not installed"):
        build_engine(nn.Linear(2, 2), OptimizerOptions(0.1), Sharding(1))


@pytest.mark.parametrize("num_rows", [1, 7, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_is_done_by_one_worker(num_rows, world_size):
    shares = [share_of(num_rows, Worker(rank, world_size)) for rank in range(world_size)]
    rows = [row for share in shares for row in range(num_rows)[share]]
    assert rows == list(range(num_rows))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_batch_too_small_to_share_is_refused():
    require_shares(6, Worker(0, 2), num_parts=3)
    with pytest.raises(ConfigError, match=r"^A batch of 5 rows cannot be shared by 2 workers in 3"):
        require_shares(5, Worker(0, 2), num_parts=3)
