"""The log of a local run: what steps print, and nothing of Kubeflow's machinery."""

import io

from pipelines.local_run import StepLog

RAW = """\
15:54:14.640 - INFO - Running pipeline: \x1b[95m'difflm'\x1b[0m
----------------------------------------
15:55:09.711 - INFO - Executing task \x1b[96m'train-vae'\x1b[0m
15:55:09.711 - INFO - Streamed logs:

    [KFP Executor 2026-11-21 15:55:09,803 INFO]: Looking for component `run_stage`
    [KFP Executor 2026-11-21 15:55:09,804 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {}
        }
    }
    INFO train-vae: writes run/vae
        indented by the step
    [KFP Executor 2026-11-21 15:55:54,760 INFO]: Wrote executor output file

15:55:55.996 - INFO - Task \x1b[96m'train-vae'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
15:55:55.997 - INFO - Task \x1b[96m'train-vae'\x1b[0m outputs:
    Output: 'run/vae'
    metrics: Metrics( name='metrics',
                      uri='somewhere' )
15:55:56.000 - INFO - Executing task \x1b[96m'generate'\x1b[0m
15:55:56.001 - INFO - Streamed logs:
    Error: no luck
15:55:57.000 - ERROR - Task \x1b[96m'generate'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""
SHOWN = """\

[train-vae]
INFO train-vae: writes run/vae
    indented by the step

[generate]
Error: no luck
[generate] failed
"""


def test_only_the_steps_are_shown():
    stream = io.StringIO()
    StepLog(stream).write(RAW)
    assert stream.getvalue() == SHOWN


def test_pieces_of_lines_make_no_difference():
    stream = io.StringIO()
    log = StepLog(stream)
    for character in RAW:
        log.write(character)
    assert stream.getvalue() == SHOWN
