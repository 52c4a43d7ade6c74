"""Fixtures for the unit tests."""

import pytest


@pytest.fixture
def out(tmp_path):
    """Output folder of a toy stage."""
    return str(tmp_path / "numbers")
