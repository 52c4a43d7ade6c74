"""The six stages of a run."""
