"""The quality gate: each figure against its limit, and what is not there."""

import copy

import pytest

from difflm_core.errors import ConfigError
from difflm_core.evaluation.gate import Limits, check_report, read_limits

REPORT = {
    "utility": {"gap_percent": -3.0},
    "fidelity": {"shape_error": 1.5, "trend_error": 2.5},
    "detection": {"auc": 0.6},
    "validity": {"num_invalid_rows": 0},
    "privacy": {
        "copies": {"exact_rate": 0.004, "holdout_exact_rate": 0.002},
        "membership": {"auc_low": 0.5},
    },
}
FIGURES = {
    "utility_loss_percent": 3.0,
    "shape_error_percent": 1.5,
    "trend_error_percent": 2.5,
    "two_sample_auc": 0.6,
    "invalid_rows": 0.0,
    "copy_excess_percent": 0.2,
    "membership_auc": 0.5,
}


def test_every_figure_is_found():
    assert check_report(REPORT, Limits()).figures() == pytest.approx(FIGURES)
    assert check_report(REPORT, Limits()).passed


@pytest.mark.parametrize("name", [name for name, value in FIGURES.items() if value > 0])
def test_each_limit_refuses_alone(name):
    at_most = {**{key: -1.0 for key in FIGURES}, name: FIGURES[name] * 0.99}
    result = check_report(REPORT, Limits(**at_most))
    assert not result.passed
    assert [check.name for check in result.checks if not check.passed] == [name]
    assert f"| {name} |" in result.markdown()
    assert "**too much**" in result.markdown()
    assert "refused" in result.markdown()
    at_most[name] = FIGURES[name] * 1.01
    assert check_report(REPORT, Limits(**at_most)).passed


def test_an_invalid_row_is_too_much():
    report = {**REPORT, "validity": {"num_invalid_rows": 1}}
    assert not check_report(report, Limits()).passed


def test_better_than_real_is_no_loss():
    report = {**REPORT, "utility": {"gap_percent": 4.0}}
    assert check_report(report, Limits(utility_loss_percent=0)).passed


def test_no_target_is_no_failure_but_no_privacy_is():
    report = copy.deepcopy(REPORT)
    report["utility"] = {"not_computed": "no target"}
    result = check_report(report, Limits())
    assert result.passed
    assert "no target" in result.markdown()
    report["privacy"]["membership"] = {"not_computed": "60 holdout rows"}
    result = check_report(report, Limits())
    assert not result.passed
    assert "60 holdout rows" in result.markdown()
    assert check_report(report, Limits(membership_auc=-1)).passed


def test_limits_are_named_and_numbers():
    assert read_limits({"shape_error_percent": "2"}).shape_error_percent == 2.0
    with pytest.raises(ConfigError, match=r"Did you mean shape_error_percent\?"):
        read_limits({"shape_eror_percent": 2})
    with pytest.raises(ConfigError, match="expected a number, found 'low'"):
        read_limits({"two_sample_auc": "low"})
