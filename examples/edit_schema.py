"""Infer a schema, correct it, and pass it back; from SDV metadata, too.

    python examples/edit_schema.py [--output schema.json]

The same on the command line, with an editor in between:

    difflm schema infer examples/data/adult_train.parquet -o schema.json --target income
    difflm run pipelines/configs/adult.yaml --set data.schema_path=schema.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from difflm_core.data.inference import infer_schema
from difflm_core.data.schema import ColumnKind, Schema

ADULT = Path(__file__).parent / "data" / "adult_train.parquet"


def main() -> None:
    """Infer, edit, save, and merge SDV metadata."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("schema.json"), help="where it goes")
    options = parser.parse_args()

    schema = infer_schema(ADULT, target="income")

    # A person would edit the JSON file. In Python: copies with other fields.
    edits = {
        "age": {"minimum": 17, "maximum": 90},  # generated ages never leave this range
        "education-num": {"kind": ColumnKind.CATEGORICAL},  # a code, not an amount
    }
    columns = [column.model_copy(update=edits.get(column.name)) for column in schema.columns]
    edited = schema.model_copy(update={"columns": tuple(columns)})
    edited.save(options.output)
    print(f"{options.output}: use it as data.schema_path, or DiffLM.fit(df, metadata=...)")

    # SDV metadata declares some columns; the data says the rest.
    sdv = {
        "METADATA_SPEC_VERSION": "V1",
        "columns": {
            "age": {"sdtype": "numerical", "computer_representation": "Int64"},
            "education-num": {"sdtype": "categorical"},
        },
    }
    merged = infer_schema(ADULT, declared=Schema.from_json(json.dumps(sdv)))
    for name in ("age", "education-num", "hours-per-week"):
        column = merged.column(name)
        print(f"{name:<15} {column.kind:<12} stored as {column.storage}")


if __name__ == "__main__":
    main()
