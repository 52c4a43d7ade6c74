"""Settings of a cluster: what a stage leaves out comes from the default; mistakes are named."""

import re

import pytest

from components.cluster_config import ClusterConfig, parse_cluster_config
from difflm_core.errors import ConfigError


def test_a_stage_keeps_what_it_does_not_change():
    config = parse_cluster_config(
        "default: {worker: {cpu: 8, memory: 10Gi}, waiting_seconds: 60}\n"
        "stages: {train-vae: {worker: {gpu: 2}}}",
        "stages.yaml",
    )
    place = config.place("train-vae")
    assert (place.worker.cpu, place.worker.memory, place.worker.gpu) == (8, "10Gi", 2)
    assert place.waiting_seconds == 60
    assert config.place("generate") == config.default
    assert config.place("generate").worker.gpu == 0


def test_nothing_means_defaults():
    assert parse_cluster_config("", "stages.yaml") == ClusterConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagee: x", r"stages.yaml: imagee: there is no such key.*Did you mean image\?"),
        ("stages: {generate: {worker: {cpus: 2}}}", r"generate.worker.cpus: .*Did you mean cpu\?"),
        ("default: {tolerations: [{kee: a}]}", r"tolerations.0.kee: .*Did you mean key\?"),
        ("stages: {train: {}}", "there is no stage 'train'; expected serialize, train-vae"),
        ("default: {worker: {memory: lots}}", r"default.worker.memory: .*Found 'lots'"),
        ("default: {worker: {cpu: 0}}", r"default.worker.cpu: .*Found 0"),
        ("service: {min_workers: 5, max_workers: 2}", "min_workers 5 is more than 2"),
        ("- a", "expected keys such as image:"),
        ("a: [", "this is not valid YAML"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_cluster_config(text, "stages.yaml")
    assert re.search(message, str(caught.value))
