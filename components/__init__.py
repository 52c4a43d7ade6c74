"""Each stage where it runs: on Ray here; the science itself is in `difflm_core`."""
