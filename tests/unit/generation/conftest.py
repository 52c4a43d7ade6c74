"""Models that the tests of conditions share."""

import datetime

import numpy as np
import pytest
import torch

from difflm_core.api import DiffLM
from difflm_core.device import Compute
from difflm_core.generation.bundle import load_generator
from tests.people import SETTINGS, make_people

CONFIG = {"codec": SETTINGS["codec"], "vae": SETTINGS["vae"], "diffusion": SETTINGS["diffusion"]}


@pytest.fixture(scope="session")
def model():
    """A model without free text: all that it writes is valid."""
    frame = make_people(300).drop(columns="note")
    frame["day"] = [value.date() for value in frame["joined"]]
    frame["opens"] = [datetime.time(6 + row % 12, 30 * (row % 2)) for row in range(300)]
    frame["land"] = "Norway"
    frame["level"] = [f"{row % 3 + 1}|{row % 2}" for row in range(300)]
    frame["weight"] = np.random.default_rng(1).lognormal(size=300)
    frame["visits"] = [row % 5 for row in range(300)]
    return DiffLM.fit(frame, target="label", seed=5, config=CONFIG)


@pytest.fixture(scope="session")
def generator(model):
    return model._generator


@pytest.fixture(scope="session")
def with_text(people_run):
    return load_generator(people_run / "generator", Compute(torch.device("cpu")))
