"""Run Python programs that nobody has read, such as generated code.

A program runs in a process of its own, which gives up what it does not need before the program
begins: see `confinement.py` for how, and docs/code.md for what that protects against.
"""

from difflm_core.sandbox.programs import (
    Limits,
    Outcome,
    Verdict,
    require_sandbox,
    run_program,
    run_programs,
)

__all__ = ["Limits", "Outcome", "Verdict", "require_sandbox", "run_program", "run_programs"]
