#!/usr/bin/env bash
# Tries the programs of an image, or of an environment that install.sh made: those that KubeRay,
# Kubeflow Pipelines and people call. They must be on PATH; the working directory must be outside
# the sources, so that only what is installed can be found.
set -euo pipefail

# Each program says what it is, or the script stops here.
python3 -m components.entrypoint --help > /dev/null
difflm --help > /dev/null
difflm pipeline --help > /dev/null
ray --version
# What a Kubeflow step starts, and what every optional part of the software imports.
python3 -c 'import kfp.dsl.executor_main'
python3 - <<'PYTHON'
import importlib.util
import sys

import deepspeed
import gcsfs
import kfp
import kfp.kubernetes
import lightgbm
import s3fs
import tensorboard
import torch
import xgboost

import components
import difflm_core
import pipelines

for package in (components, difflm_core, pipelines):
    if not package.__file__.startswith(sys.prefix):
        sys.exit(f"{package.__file__} is not of the environment {sys.prefix}")
if importlib.util.find_spec("pytest"):
    sys.exit("pytest is here: tools of development do not belong into an image")
print("torch", torch.__version__, "deepspeed", deepspeed.__version__, "kfp", kfp.__version__)
PYTHON
