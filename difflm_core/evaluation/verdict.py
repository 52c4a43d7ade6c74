"""The evaluation in plain words: thresholds, traffic lights and the headline.

Where a real holdout gives a noise floor, the thresholds stand relative to it; the absolute ones
follow what published tabular generators reach.
"""

from __future__ import annotations

from difflm_core.evaluation.results import (
    Detection,
    Distances,
    Fidelity,
    Finding,
    Membership,
    NotComputed,
    Privacy,
    Utility,
    Validity,
    Verdict,
)

GOOD, FAIR, BAD, UNKNOWN = "good", "fair", "bad", "unknown"
WORDS = {GOOD: "Good", FAIR: "Usable with care", BAD: "Not good enough", UNKNOWN: "Not measured"}


def judge(
    fidelity: Fidelity | NotComputed,
    detection: Detection | NotComputed,
    utility: Utility | NotComputed,
    validity: Validity,
    privacy: Privacy | NotComputed,
) -> Verdict:
    """Turn the figures into findings with a traffic light, and these into one headline."""
    findings = [
        _utility(utility),
        _detection(detection),
        shape_finding(fidelity),
        _trend(fidelity),
        _validity(validity),
        _copies(privacy),
        _closest(privacy),
        _membership(privacy),
    ]
    quality = worst(
        [f.light for f in findings if f.key in ("utility", "detection", "shape", "trend")]
    )
    safety = worst([f.light for f in findings if f.key in ("copies", "distance", "membership")])
    light = worst([quality, safety, findings[4].light])
    return Verdict(light, _headline(quality, safety, validity.num_invalid_rows), tuple(findings))


def _headline(quality: str, safety: str, num_invalid: int) -> str:
    first = {
        GOOD: "The synthetic table is very close to the real one",
        FAIR: "The synthetic table resembles the real one, with differences a model can find",
        BAD: "The synthetic table differs clearly from the real one",
        UNKNOWN: "The likeness to the real table could not be measured",
    }[quality]
    second = {
        GOOD: "shows no sign of copying its training rows",
        FAIR: "stays slightly closer to its training rows than fresh real rows do",
        BAD: "gives away training rows",
        UNKNOWN: "its privacy could not be measured",
    }[safety]
    rows = "row breaks" if num_invalid == 1 else "rows break"
    end = f"; {num_invalid:,} {rows} the schema." if num_invalid else "."
    return f"{first}, {conjunction(quality, safety)} {second}{end}"


def conjunction(quality: str, safety: str) -> str:
    """The word between both halves of a headline: only what is good speaks against what is not."""
    if UNKNOWN in (quality, safety):
        return "and"
    return "but" if (quality == GOOD) != (safety == GOOD) else "and"


def rank(light: str) -> int:
    """Order of the lights: the worse, the larger."""
    return {UNKNOWN: -1, GOOD: 0, FAIR: 1, BAD: 2}[light]


def worst(lights: list[str]) -> str:
    """The worst of the lights that are known."""
    known = [light for light in lights if light != UNKNOWN]
    return max(known, key=rank) if known else UNKNOWN


def grade(value: float, good: float, fair: float) -> str:
    """The light of a figure that is better when it is smaller."""
    return GOOD if value <= good else FAIR if value <= fair else BAD


def missing_finding(key: str, title: str, reason: str, rule: str) -> Finding:
    """The finding of a figure that was not computed."""
    return Finding(key, title, "–", UNKNOWN, f"Not computed: {reason}.", rule)


def _utility(utility: Utility | NotComputed) -> Finding:
    title = "Usefulness for a model"
    rule = "green: at most 2 % worse than real data; yellow: at most 6 %"
    if isinstance(utility, NotComputed):
        return missing_finding("utility", title, utility.not_computed, rule)
    loss = -utility.gap_percent
    metric = utility.primary_metric.replace("_", " ").upper().replace("MACRO", "macro")
    if loss != loss:
        return missing_finding(
            "utility", title, "the score of the real data is 0 or undefined", rule
        )
    good, fair = (2.0, 6.0) if utility.higher_is_better else (15.0, 40.0)
    if not utility.higher_is_better:
        rule = "green: error at most 15 % above that of real data; yellow: at most 40 %"
    sentence = (
        f"XGBoost trained on synthetic rows reaches {metric} {utility.synthetic:.4g} on real test "
        f"rows; trained on the real rows, {utility.real:.4g}."
    )
    value = f"{utility.gap_percent:+.1f} %"
    return Finding("utility", title, value, grade(loss, good, fair), sentence, rule)


def _detection(detection: Detection | NotComputed) -> Finding:
    title = "Telling it from real rows"
    rule = "green: AUC at most 0.60; yellow: at most 0.80 (0.5 = coin toss, 1 = always right)"
    if isinstance(detection, NotComputed):
        return missing_finding("detection", title, detection.not_computed, rule)
    sentence = "A model trained to tell synthetic from real rows ranks them right this often."
    if detection.auc < 0.45:
        sentence += " Below 0.5: synthetic rows repeat training rows."
    light = grade(detection.auc, 0.60, 0.80)
    return Finding("detection", title, f"{detection.auc:.3f}", light, sentence, rule)


def shape_finding(
    fidelity: Fidelity | NotComputed, title: str = "Columns (shape error)"
) -> Finding:
    """How alike the distributions of single columns are."""
    rule = "green: at most 2 %, or twice the real holdout's; yellow: at most 5 %, or four times"
    if isinstance(fidelity, NotComputed) or fidelity.shape_error is None:
        reason = fidelity.not_computed if isinstance(fidelity, NotComputed) else "no usable column"
        return missing_finding("shape", title, reason, rule)
    floor = fidelity.holdout_shape_error or 0.0
    sentence = (
        "Mean difference between the distributions of each column. "
        f"The real holdout, for comparison: {floor:.2f} %."
    )
    light = grade(fidelity.shape_error, max(2.0, 2 * floor), max(5.0, 4 * floor))
    return Finding("shape", title, f"{fidelity.shape_error:.2f} %", light, sentence, rule)


def _trend(fidelity: Fidelity | NotComputed) -> Finding:
    title = "Relations (trend error)"
    rule = "green: at most 3 %, or twice the real holdout's; yellow: at most 8 %, or four times"
    if isinstance(fidelity, NotComputed) or fidelity.trend_error is None:
        reason = (
            fidelity.not_computed if isinstance(fidelity, NotComputed) else "no pair of columns"
        )
        return missing_finding("trend", title, reason, rule)
    floor = fidelity.holdout_trend_error or 0.0
    sentence = (
        "Mean difference between the joint distributions of each pair of columns. "
        f"The real holdout, for comparison: {floor:.2f} %."
    )
    light = grade(fidelity.trend_error, max(3.0, 2 * floor), max(8.0, 4 * floor))
    return Finding("trend", title, f"{fidelity.trend_error:.2f} %", light, sentence, rule)


def _validity(validity: Validity) -> Finding:
    rule = "green: none; yellow: at most 1 % of the rows"
    share = validity.num_invalid_rows / max(1, validity.num_rows)
    light = GOOD if validity.num_invalid_rows == 0 else FAIR if share <= 0.01 else BAD
    sentence = "Rows with a value of a wrong type, outside its range, or of an unknown category."
    if validity.num_rejected:
        sentence += f" Generation rejected {validity.num_rejected:,} more rows."
    value = f"{validity.num_invalid_rows:,}"
    return Finding("validity", "Invalid rows", value, light, sentence, rule)


def _copies(privacy: Privacy | NotComputed) -> Finding:
    title = "Exact copies"
    rule = "green: not more often than a real holdout (plus chance); yellow: up to twice as often"
    if isinstance(privacy, NotComputed):
        return missing_finding("copies", title, privacy.not_computed, rule)
    copies = privacy.copies
    base = copies.holdout_exact_rate
    chance = 2.0 * (max(base, 1e-4) * (1 - base) / 1000) ** 0.5
    light = grade(copies.exact_rate, base + min(chance, 0.005), 2 * base + 0.005)
    sentence = (
        f"Share of synthetic rows that equal a training row; {100 * base:.2f} % of the holdout's "
        "real rows do so too."
    )
    return Finding("copies", title, f"{100 * copies.exact_rate:.2f} %", light, sentence, rule)


def _closest(privacy: Privacy | NotComputed) -> Finding:
    title = "Closer to training than to holdout"
    rule = "green: the interval reaches 52 % or below; yellow: 55 % (50 % = no memory)"
    if isinstance(privacy, NotComputed) or isinstance(privacy.distances, NotComputed):
        reason = _reason(privacy, "distances")
        return missing_finding("distance", title, reason, rule)
    distances: Distances = privacy.distances
    sentence = (
        "Share of synthetic rows whose closest real row is a training row rather than one of as "
        f"many unseen rows (95 % interval {100 * distances.share_low:.1f} to "
        f"{100 * distances.share_high:.1f} %)."
    )
    light = grade(distances.share_low, 0.52, 0.55)
    value = f"{100 * distances.share_closer_to_train:.1f} %"
    return Finding("distance", title, value, light, sentence, rule)


def _membership(privacy: Privacy | NotComputed) -> Finding:
    title = "Membership attack"
    rule = "green: the interval reaches 0.52 or below; yellow: 0.55 (0.5 = the attacker guesses)"
    if isinstance(privacy, NotComputed) or isinstance(privacy.membership, NotComputed):
        return missing_finding("membership", title, _reason(privacy, "membership"), rule)
    attack: Membership = privacy.membership
    sentence = (
        f"AUC of the better of two attacks ({attack.attack}) that guess who was in the training "
        f"table; it finds {100 * attack.tpr_at_1_percent_fpr:.1f} % of the members at 1 % false "
        "alarms."
    )
    light = grade(attack.auc_low, 0.52, 0.55)
    return Finding("membership", title, f"{attack.auc:.3f}", light, sentence, rule)


def _reason(privacy: Privacy | NotComputed, part: str) -> str:
    if isinstance(privacy, NotComputed):
        return privacy.not_computed
    found = privacy.distances if part == "distances" else privacy.membership
    return found.not_computed if isinstance(found, NotComputed) else "unknown"
