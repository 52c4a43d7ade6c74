import numpy as np
import pyarrow as pa

from difflm_core.data.schema import Column, ColumnKind, Schema

KINDS = {
    "age": ColumnKind.INTEGER,
    "income": ColumnKind.FLOAT,
    "job": ColumnKind.CATEGORICAL,
    "member": ColumnKind.BOOLEAN,
    "label": ColumnKind.CATEGORICAL,
}


def make_schema(kinds: dict[str, ColumnKind], target: str | None = None) -> Schema:
    columns = tuple(
        Column(name=name, kind=kind, nullable=True, value="k" if kind == "constant" else None)
        for name, kind in kinds.items()
    )
    return Schema(columns=columns, target=target)


def make_people(num_rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, num_rows)
    job = rng.choice(["nurse", "driver", "<b>boss</b>", "ünï"], num_rows, p=[0.4, 0.3, 0.2, 0.1])
    income = 100.0 * age + 2000.0 * (job == "nurse") + rng.normal(0, 300, num_rows)
    label = np.where(income + rng.normal(0, 500, num_rows) > 6000, "rich", "poor")
    return pa.table(
        {
            "age": pa.array(age, pa.int64()),
            "income": pa.array(np.round(income, 3)),
            "job": pa.array(job.tolist(), pa.string()),
            "member": pa.array(age > 40),
            "label": pa.array(label.tolist(), pa.string()),
        }
    )


def shuffle_columns(table: pa.Table, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = [column.take(pa.array(rng.permutation(len(column)))) for column in table.columns]
    return pa.table(columns, names=table.column_names)


PEOPLE = make_schema(KINDS, "label")
