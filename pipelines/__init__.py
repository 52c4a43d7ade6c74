"""Pipelines: wiring of the stages, and configurations of runs."""
