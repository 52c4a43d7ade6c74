"""Tables, distributions and quality that stand for models, for the page's tests."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from components.serving import schemas

ADULT = Path(__file__).parents[2] / "examples/data/adult_train.parquet"
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", 'it\'s "quoted" & plain']


class Refusal(Exception):
    """An answer that is a problem."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None, errors=()):
        self.problem = schemas.Problem(
            title=f"Status {status}",
            status=status,
            code=f"status_{status}",
            detail=detail,
            request_id="0123456789abcdef",
            retry_after_seconds=retry_after,
            errors=list(errors),
        )


class Table:
    """A model: a table whose rows are drawn, and what the service says about it."""

    def __init__(self, name: str, frame: pd.DataFrame, kinds: dict[str, str], target, quality):
        self.name, self.frame, self.kinds = name, frame, kinds
        self.target, self.quality = target, quality
        self.version = f"{zlib.crc32(name.encode()):08x}"

    def draw(self, sampling: schemas.Sampling, count: int, seed: int) -> pd.DataFrame:
        rows = self.frame[self.matches(sampling.conditions)]
        return rows.iloc[np.random.default_rng(seed).integers(len(rows), size=count)]

    def matches(self, conditions: dict[str, Any]) -> np.ndarray:
        keep = np.ones(len(self.frame), bool)
        for name, wanted in conditions.items():
            values = self.frame[name]
            if isinstance(wanted, schemas.Range):
                if None not in (wanted.min, wanted.max) and wanted.min > wanted.max:
                    problem = schemas.FieldProblem(
                        field=f"conditions.{name}", message="min is above max."
                    )
                    raise Refusal(422, "The request has 1 wrong value.", errors=[problem])
                keep &= (values >= wanted.min) if wanted.min is not None else True
                keep &= (values <= wanted.max) if wanted.max is not None else True
            else:
                keep &= values.isin(wanted if isinstance(wanted, list) else [wanted])
        return keep

    def summary(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "version": self.version,
            "num_columns": len(self.kinds),
            "num_training_rows": len(self.frame),
            "target": self.target,
            "headline": self.quality and self.quality.headline,
        }

    def details(self) -> schemas.ModelDetails:
        columns = [self.column(name, kind) for name, kind in self.kinds.items()]
        return schemas.ModelDetails(
            **self.summary(), columns=columns, card=CARD, quality=self.quality
        )

    def column(self, name: str, kind: str) -> schemas.ColumnInfo:
        values = self.frame[name].dropna()
        listed = kind in ("categorical", "boolean")
        ordered = kind in ("integer", "float", "datetime", "date", "time")
        return schemas.ColumnInfo(
            name=name,
            kind=kind,
            nullable=bool(self.frame[name].isna().any()),
            is_target=name == self.target,
            categories=list(values.unique().tolist()) if listed else None,
            minimum=values.min().item()
            if kind in ("integer", "float")
            else (values.min() if ordered else None),
            maximum=values.max().item()
            if kind in ("integer", "float")
            else (values.max() if ordered else None),
            conditional=listed or ordered,
        )

    def distributions(self) -> schemas.Distributions:
        shown = [n for n, kind in self.kinds.items() if kind not in ("text", "identifier")]
        return schemas.Distributions(columns=[self.distribution(name) for name in shown])

    def distribution(self, name: str) -> schemas.Distribution:
        values, missing = self.frame[name].dropna(), float(self.frame[name].isna().mean())
        if self.kinds[name] in ("categorical", "boolean") or values.nunique() <= 16:
            shares = values.value_counts(normalize=True)
            if self.kinds[name] in ("integer", "float"):
                shares = shares.sort_index()
            labels = shares.index.tolist()
            return schemas.Distribution(
                name=name, labels=labels, edges=None, shares=shares.tolist(), missing=missing
            )
        dates = self.kinds[name] not in ("integer", "float")
        numbers = pd.to_datetime(values, format="mixed").astype("int64") if dates else values
        counts, edges = np.histogram(numbers, bins=24)
        bounds = [form(self.kinds[name], edge) if dates else float(edge) for edge in edges]
        shares = (counts / counts.sum()).tolist()
        return schemas.Distribution(
            name=name, labels=None, edges=bounds, shares=shares, missing=missing
        )


def form(kind: str, stamp: float) -> str:
    """An edge as ISO 8601."""
    moment = pd.Timestamp(int(stamp), unit="us" if abs(stamp) < 1e17 else "ns")
    return {"date": moment.date, "time": moment.time, "datetime": lambda: moment}[
        kind
    ]().isoformat()


def adult() -> Table:
    frame = pq.read_table(ADULT).to_pandas().replace("?", None)
    kinds = {n: "integer" if frame[n].dtype.kind == "i" else "categorical" for n in frame}
    findings = [
        ("Usefulness for a model", "-0.5 %", "good", USEFUL),
        ("Telling it from real rows", "0.496", "good", "A model ranks them right this often."),
        ("Columns (shape error)", "0.18 %", "good", "Mean difference of each column."),
        ("Relations (trend error)", "3.93 %", "fair", "Mean difference of each pair of columns."),
        ("Invalid rows", "0", "good", "Rows with a value of a wrong type, or outside its range."),
        ("Exact copies", "0.00 %", "good", "Share of rows that equal a training row."),
        ("Closer to training than to holdout", "56.0 %", "bad", CLOSER),
        ("Membership attack", "–", "unknown", "Not computed: the test table is too small."),
    ]
    quality = schemas.Quality(
        light="fair",
        headline="The synthetic table resembles the real one, with differences a model can find, "
        "but shows no sign of copying its training rows.",
        findings=[
            schemas.Finding(title=title, value=value, light=light, sentence=sentence)
            for title, value, light, sentence in findings
        ],
    )
    return Table("adult", frame, kinds, "income", quality)


def visits() -> Table:
    """Every kind of column, and values that look like markup."""
    draw, size = np.random.default_rng(1), 2000
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(draw.integers(0, 366, size), unit="D")
    seconds = pd.to_timedelta(draw.normal(12 * 3600, 7000, size).clip(0, 86399).astype(int), "s")
    frame = pd.DataFrame(
        {
            "visit id": [f"V-{n:06d}" for n in range(size)],
            "reason": draw.choice([*HOSTILE, "check-up"], size, p=[0.4, 0.3, 0.2, 0.1]),
            "arrived": [moment.isoformat() for moment in days + seconds],
            "day": [moment.date().isoformat() for moment in days],
            "hour": [moment.time().isoformat() for moment in days + seconds],
            "paid": draw.choice([True, False], size, p=[0.7, 0.3]).astype(object),
            "cost": draw.gamma(2, 40, size).round(2),
            "<b>note</b>": draw.choice([HOSTILE[1], "came back with a cough " * 4, "well"], size),
        }
    )
    frame.loc[draw.random(size) < 0.1, "cost"] = np.nan
    kinds = dict(
        zip(
            frame,
            "identifier categorical datetime date time boolean float text".split(),
            strict=True,
        )
    )
    return Table("visits", frame, kinds, None, None)


USEFUL = (
    "XGBoost trained on synthetic rows reaches ROC AUC 0.9228 on real test rows; trained on the "
    "real rows, 0.9274."
)
CLOSER = (
    "Share of synthetic rows whose closest real row is a training row rather than one of as many "
    "unseen rows."
)
CARD = """# Model card: generator of synthetic records

A **DiffLM** model with `code`, *emphasis*, [a link](https://example.org/) and <b>no markup</b>.

## Trained on

| column | kind | may be missing |
|-|-|-|
| capital\\_gain | integer | no |
| a \\| b | categorical | yes |

- seed: 0
- vae: depth 4,
  width 256

    difflm sample <this folder> -n 1000

[never](javascript:alert(3))
"""
