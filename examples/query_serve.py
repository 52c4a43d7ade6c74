"""Ask a service for rows: a frame, some that meet conditions, and a large table as a file.

difflm serve runs/adult
python examples/query_serve.py [--url http://127.0.0.1:8000]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from difflm_core.client import Client


def main() -> None:
    """Look at the models, and make rows of the first one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service answers")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the file")
    parser.add_argument("--output", type=Path, default=Path("rows.parquet"), help="where they go")
    options = parser.parse_args()

    with Client(options.url) as client:
        model = client.models()[0]
        print(f"{model.id} (version {model.version}): {model.headline or 'not evaluated'}")
        print(client.sample(model.id, 5, seed=7))

        column = next(c for c in client.model(model.id).columns if c.conditional and c.categories)
        wanted = column.categories[0]
        frame = client.sample(model.id, 100, seed=7, conditions={column.name: wanted})
        print(f"100 rows with {column.name} {wanted!r}: {set(frame[column.name])}")

        # In pages, with constant memory; an interruption costs nothing.
        client.sample_to(options.output, model.id, options.rows, seed=7)
        print(options.output)


if __name__ == "__main__":
    main()
