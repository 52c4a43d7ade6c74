"""One embedded Ray for the session: starting one takes seconds."""

import pytest

from components.ray_launcher import RayLauncher, RayOptions


@pytest.fixture(scope="session")
def launcher():
    """A launcher on an embedded Ray."""
    with RayLauncher(RayOptions(start_timeout_seconds=120)) as launcher:
        yield launcher
