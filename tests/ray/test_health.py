"""The health check of the images, and a Ray node with the token that its API demands."""

import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ray.heads import local_head, wait_for

CHECK = Path(__file__).parents[2] / "components" / "images" / "healthcheck.py"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


def test_the_agent_tells_its_health_without_a_token():
    with local_head() as head:
        wait_for(head.agent_port)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{head.dashboard}/api/version", timeout=10)
        done = subprocess.run(
            [sys.executable, "-IS", CHECK, str(head.agent_port)],
            env={}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with urllib.request.urlopen(
            f"http://127.0.0.1:{head.agent_port}/api/healthz", timeout=10
        ) as answer:
            assert answer.status == 200
