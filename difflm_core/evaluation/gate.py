"""The quality gate: may what a report describes be used? Limits are the user's, per figure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from difflm_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a report may show at most; a negative limit is not looked at.

    Of documents, utility is the bits per character of a language model, telling them apart is by
    their texts, copies are near ones, and there is no membership attack.

    Attributes:
        utility_loss_percent: how much worse a model does on real test rows when it is trained on
            synthetic instead of real ones, in percent of the latter's score.
        shape_error_percent: mean difference of single columns.
        trend_error_percent: mean difference of pairs of columns.
        two_sample_auc: AUC of telling synthetic from real rows.
        invalid_rows: rows that break the schema.
        copy_excess_percent: exact copies of training rows, in percent of the rows, beyond those
            among real rows that were never trained on.
        membership_auc: AUC of guessing who was in the training table; the lower end of its
            interval counts.
    """

    utility_loss_percent: float = 10.0
    shape_error_percent: float = 5.0
    trend_error_percent: float = 8.0
    two_sample_auc: float = 0.8
    invalid_rows: float = 0.0
    copy_excess_percent: float = 0.5
    membership_auc: float = 0.55


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its limit; `value` is None if it was not computed, for `reason`."""

    name: str
    value: float | None
    limit: float
    passed: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """All checks, and whether every one has passed."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check has failed."""
        return all(check.passed for check in self.checks)

    def figures(self) -> dict[str, float]:
        """The figures that were computed, by name."""
        return {check.name: check.value for check in self.checks if check.value is not None}

    def markdown(self) -> str:
        """The checks as a table."""
        lines = [
            f"# Quality gate: {'passed' if self.passed else 'refused'}",
            "",
            "| figure | found | at most | |",
            "|-|-:|-:|-|",
        ]
        for check in self.checks:
            found = f"{check.value:.4g}" if check.value is not None else f"– ({check.reason})"
            limit = f"{check.limit:.4g}" if check.limit >= 0 else "any"
            mark = "ok" if check.passed else "**too much**" if check.value is not None else "**no**"
            lines.append(f"| {check.name} | {found} | {limit} | {mark} |")
        return "\n".join(lines) + "\n"


# Nothing to predict is a property of the table; everything else that is missing is a defect.
_MAY_BE_MISSING = frozenset({"utility_loss_percent"})


def check_report(report: Mapping[str, Any], limits: Limits) -> GateResult:
    """Compare a report with limits.

    A figure that was not computed fails its check, unless its limit is negative; only utility may
    be missing, since not every table has a target.

    Args:
        report: content of report.json.
        limits: what is allowed.
    """
    checks: list[Check] = []
    for name, limit in asdict(limits).items():
        value, reason = _figure(name, report)
        if limit < 0:
            passed = True
        elif value is None:
            passed = name in _MAY_BE_MISSING or (
                name == "membership_auc" and bool(report.get("documents"))
            )
        else:
            passed = value <= limit
        checks.append(Check(name, value, float(limit), passed, reason))
    return GateResult(tuple(checks))


def read_limits(values: Mapping[str, Any]) -> Limits:
    """Make limits from numbers by name.

    Raises:
        ConfigError: a name is unknown, or a value is no number.
    """
    known = [field.name for field in fields(Limits)]
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"Limit {name}: expected one of {', '.join(known)}.{hint}")
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"Limit {name}: expected a number, found {value!r}.") from None
    return Limits(**numbers)


def _figure(name: str, report: Mapping[str, Any]) -> tuple[float | None, str | None]:
    if report.get("documents"):
        return _document_figure(name, report)
    if name == "utility_loss_percent":
        value, reason = _at(report, "utility", "gap_percent")
        return (None if value is None else max(0.0, -value)), reason
    if name == "copy_excess_percent":
        rate, reason = _at(report, "privacy", "copies", "exact_rate")
        base, _ = _at(report, "privacy", "copies", "holdout_exact_rate")
        excess = None if rate is None else max(0.0, 100 * (rate - (base or 0.0)))
        return excess, reason
    paths = {
        "shape_error_percent": ("fidelity", "shape_error"),
        "trend_error_percent": ("fidelity", "trend_error"),
        "two_sample_auc": ("detection", "auc"),
        "invalid_rows": ("validity", "num_invalid_rows"),
        "membership_auc": ("privacy", "membership", "auc_low"),
    }
    return _at(report, *paths[name])


def _document_figure(name: str, report: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """The figure of documents that answers the same question."""
    if name == "utility_loss_percent":
        real, reason = _at(report, "documents", "language", "real")
        made, _ = _at(report, "documents", "language", "synthetic")
        return (100 * max(0.0, made / real - 1) if real and made else None), reason
    if name == "copy_excess_percent":
        rate, reason = _at(report, "documents", "repetition", "near_copy_rate")
        base, _ = _at(report, "documents", "repetition", "holdout_near_copy_rate")
        return (None if rate is None else max(0.0, 100 * (rate - (base or 0.0)))), reason
    if name == "membership_auc":
        return None, "not measured of documents; near copies are"
    paths = {
        "shape_error_percent": ("fidelity", "shape_error"),
        "trend_error_percent": ("fidelity", "trend_error"),
        "two_sample_auc": ("documents", "detection", "auc"),
        "invalid_rows": ("documents", "validity", "num_invalid"),
    }
    return _at(report, *paths[name])


def _at(report: Mapping[str, Any], *path: str) -> tuple[float | None, str | None]:
    """Value at a path; or None and why there is none."""
    value: Any = report
    for key in path:
        if not isinstance(value, Mapping):
            break
        if "not_computed" in value:
            return None, str(value["not_computed"])
        value = value.get(key)
    if isinstance(value, int | float):
        return float(value), None
    return None, "not in the report"
