"""Tests of difflm_core.diffusion."""
