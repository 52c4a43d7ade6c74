"""A stage's argv means the same to `difflm` and to `python -m components.entrypoint`."""

import pytest

from components import entrypoint
from difflm_core import cli
from difflm_core.stages import load_stages
from tests.people import people_config


class Stopped(Exception):
    """Ends a command as soon as its work would begin."""


@pytest.mark.parametrize("stage", load_stages(), ids=lambda stage: stage.name)
def test_the_entry_point_takes_the_argv_of_every_stage(stage, tmp_path, monkeypatch):
    calls = []

    def run_stage(stage, cfg, inputs, output, launcher, **options):
        calls.append((stage.name, cfg, inputs, output, type(launcher).__name__, options["seed"]))
        raise Stopped

    monkeypatch.setattr("difflm_core.stage.run_stage", run_stage)
    people_config(tmp_path, seed=7)
    inputs = {name: f"run/{name}" for name in stage.inputs}
    argv = stage.argv(str(tmp_path / "run.yaml"), inputs, "run/out")
    for run in (cli.main, entrypoint.run):
        with pytest.raises(Stopped):
            run(argv)
    (name, cfg, *rest, local, seed), on_ray = calls
    assert name == stage.name
    assert isinstance(cfg, stage.config_type)
    assert rest == [inputs, "run/out"]
    assert (local, seed) == ("LocalLauncher", 7)
    assert on_ray == (name, cfg, *rest, "RayLauncher", seed)
