"""Tests of difflm_core.vae."""
