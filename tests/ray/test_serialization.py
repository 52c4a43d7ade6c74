"""A table cut into pieces becomes the same corpus on Ray, whoever dies on the way."""

import numpy as np
import pandas as pd
import pytest

from difflm_core.config import CodecConfig, DataConfig, RuntimeConfig, SerializeConfig
from difflm_core.data import delimited
from difflm_core.stage import run_stage
from difflm_core.stages.serialize import STAGE
from tests.ray.saboteurs import KilledOnce, Sabotaged

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROWS = 4_000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of some eight pieces."""
    numbers = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("table") / "t.csv"
    pd.DataFrame({
        "place": np.arange(ROWS),
        "group": numbers.choice(["a", "b, c", "d"], ROWS),
        "amount": numbers.normal(size=ROWS).round(3),
    }).to_csv(path, index=False)  # fmt: skip
    return path


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    # Pieces are cut in this process; the workers get them as they are.
    monkeypatch.setattr(delimited, "PIECE_BYTES", 8_000)
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 4_096)


def serialized(table, folder, launcher=None, num_workers=1):
    cfg = SerializeConfig(
        data=DataConfig(source=str(table)), codec=CodecConfig(shard_rows=500, fit_rows=1_000)
    )
    runtime = RuntimeConfig(num_workers=num_workers, threads=1)
    return run_stage(STAGE, cfg, {}, str(folder), launcher, runtime=runtime).manifest


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory):
    """The corpus that this process makes in one piece at a time, without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "PIECE_BYTES", 8_000)
        patch.setattr(delimited, "_BLOCK_BYTES", 4_096)
        return serialized(table, tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_any_number_of_workers_serializes_the_same_corpus(
    launcher, table, undisturbed, tmp_path, num_workers
):
    manifest = serialized(table, tmp_path, launcher, num_workers)
    assert manifest.content_hash == undisturbed.content_hash
    assert manifest.summary["num_train"] + manifest.summary["num_valid"] == ROWS * 0.9


@pytest.mark.parametrize("when", ["before", "rows"])
def test_a_worker_killed_within_a_piece_changes_nothing(
    launcher, table, undisturbed, tmp_path, when
):
    markers = []

    def wrap(make_worker):
        """One death in each of the three maps."""
        markers.append(tmp_path / f"killed-{len(markers)}")
        return KilledOnce(make_worker, marker=str(markers[-1]), when=when)

    manifest = serialized(table, tmp_path / "out", Sabotaged(launcher, wrap), num_workers=2)
    assert len(markers) == 3
    assert all(marker.exists() for marker in markers)
    assert manifest.content_hash == undisturbed.content_hash
