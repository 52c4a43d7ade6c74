"""Tests of difflm_core.data."""
