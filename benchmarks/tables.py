"""The five tables of the results, read from the files of the UCI repository.

Expected under the data folder: adult/adult.data and adult.test, magic/magic04.data,
beijing/PRSA_data_2010.1.1-2014.12.31.csv, default/default_of_credit_card_clients.csv and
shoppers/online_shoppers_intention.csv. Adult keeps its official test file; the others are cut
90/10 with seed 42.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split

ADULT_COLUMNS = (
    "age workclass fnlwgt education education-num marital-status occupation relationship race sex "
    "capital-gain capital-loss hours-per-week native-country income"
).split()
MAGIC_COLUMNS = (
    "fLength fWidth fSize fConc fConc1 fAsym fM3Long fM3Trans fAlpha fDist class".split()
)
SPLIT_SEED = 42


@dataclass(frozen=True)
class Table:
    """A benchmark table.

    Attributes:
        target: Column to predict.
        categorical: Integer codes that the published evaluations treat as categories.
    """

    target: str
    categorical: tuple[str, ...] = ()


TABLES = {
    "adult": Table("income"),
    "magic": Table("class"),
    "beijing": Table("pm2.5", ("year", "month", "day", "hour")),
    "default": Table(
        "default payment next month",
        ("SEX", "EDUCATION", "MARRIAGE", "PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6"),
    ),
    "shoppers": Table("Revenue", ("OperatingSystems", "Browser", "Region", "TrafficType")),
}


def prepare(name: str, data: Path, output: Path) -> tuple[Path, Path]:
    """Write train.parquet and test.parquet of a table to `output`; return their paths."""
    train, test = _read(name, data)
    output.mkdir(parents=True, exist_ok=True)
    paths = output / "train.parquet", output / "test.parquet"
    for frame, path in zip((train, test), paths, strict=True):
        frame.reset_index(drop=True).to_parquet(path, index=False)
    return paths


def _read(name: str, data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if name == "adult":
        options = {"header": None, "names": ADULT_COLUMNS, "skipinitialspace": True}
        options |= {"na_values": "?", "keep_default_na": False}
        train = pd.read_csv(data / "adult/adult.data", **options)
        test = pd.read_csv(data / "adult/adult.test", skiprows=1, **options)
        test["income"] = test["income"].str.rstrip(".")
        return train, test
    if name == "magic":
        table = pd.read_csv(data / "magic/magic04.data", header=None, names=MAGIC_COLUMNS)
    elif name == "beijing":
        table = pd.read_csv(data / "beijing/PRSA_data_2010.1.1-2014.12.31.csv")
        table = table.drop(columns="No").dropna(ignore_index=True)
        table["pm2.5"] = table["pm2.5"].astype("int64")
    elif name == "default":
        table = pd.read_csv(data / "default/default_of_credit_card_clients.csv").drop(columns="ID")
    else:
        table = pd.read_csv(data / "shoppers/online_shoppers_intention.csv")
    train, test = train_test_split(table, test_size=0.1, random_state=SPLIT_SEED)
    return train, test
