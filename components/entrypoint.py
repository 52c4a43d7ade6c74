"""What a container or a Ray job runs: the command line of `difflm_core`, with its work on Ray.

    python -m components.entrypoint train-diffusion --config run.yaml --latents URI ...

The arguments are those of `difflm`, so `Stage.argv` serves every place. The cluster is the one of
the environment variable RAY_ADDRESS, which a Ray job sets; without it, an embedded Ray is started.
"""

from __future__ import annotations

from difflm_core.cli import main

PROGRAM = "python -m components.entrypoint"


def run(argv: list[str] | None = None) -> None:
    """Run the command line."""
    main(argv, on="ray", program=PROGRAM)


if __name__ == "__main__":
    run()
