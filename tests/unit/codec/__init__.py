"""Tests of difflm_core.codec."""
