"""`python -m difflm_core.cli` is `difflm`."""

from difflm_core.cli import main

main()
