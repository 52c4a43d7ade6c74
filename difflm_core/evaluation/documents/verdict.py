"""The evaluation of documents in plain words: traffic lights and the headline."""

from __future__ import annotations

from difflm_core.evaluation.documents.embedding import Spread
from difflm_core.evaluation.documents.results import (
    DocumentMeasures,
    DocumentValidity,
    LanguageUsefulness,
    Repetition,
    TextDetection,
)
from difflm_core.evaluation.results import Fidelity, Finding, NotComputed, Verdict
from difflm_core.evaluation.verdict import (
    BAD,
    FAIR,
    GOOD,
    UNKNOWN,
    conjunction,
    grade,
    missing_finding,
    shape_finding,
    worst,
)


def judge_documents(measures: DocumentMeasures, fidelity: Fidelity | NotComputed) -> Verdict:
    """Turn the measures into findings with a traffic light, and these into one headline."""
    findings = [
        _language(measures.language),
        _detection(measures.detection),
        shape_finding(fidelity, "Structure (shape error)"),
        _diversity(measures.spread),
        _validity(measures.validity),
        _copies(measures.repetition),
        _near_copies(measures.repetition),
        _duplicates(measures.repetition),
    ]
    quality = worst(
        [f.light for f in findings if f.key in ("language", "detection", "shape", "diversity")]
    )
    safety = worst([f.light for f in findings if f.key in ("copies", "near_copies")])
    others = [f.light for f in findings if f.key in ("validity", "duplicates")]
    light = worst([quality, safety, *others])
    return Verdict(light, _headline(quality, safety, measures.validity), tuple(findings))


def _headline(quality: str, safety: str, validity: DocumentValidity) -> str:
    first = {
        GOOD: "The synthetic documents are very close to the real ones",
        FAIR: "The synthetic documents resemble the real ones, with differences a model can find",
        BAD: "The synthetic documents differ clearly from the real ones",
        UNKNOWN: "The likeness to the real documents could not be measured",
    }[quality]
    second = {
        GOOD: "do not copy their training documents",
        FAIR: "repeat training documents somewhat more often than fresh real ones do",
        BAD: "give away training documents",
        UNKNOWN: "their privacy could not be measured",
    }[safety]
    what = "documents are" if validity.num_invalid != 1 else "document is"
    end = f"; {validity.num_invalid:,} {what} invalid." if validity.num_invalid else "."
    return f"{first}, {conjunction(quality, safety)} {second}{end}"


def _language(found: LanguageUsefulness | NotComputed) -> Finding:
    title = "Usefulness for a language model"
    rule = "green: at most 10 % more bits than real documents cost; yellow: at most 30 %"
    if isinstance(found, NotComputed):
        return missing_finding("language", title, found.not_computed, rule)
    sentence = (
        f"A small model of characters trained on synthetic documents needs {found.synthetic:.3f} "
        f"bits per character of real ones; trained on as many real documents, {found.real:.3f}; "
        f"on both, {found.both:.3f}."
    )
    value = f"{found.loss_percent:+.1f} %"
    return Finding("language", title, value, grade(found.loss_percent, 10, 30), sentence, rule)


def _detection(found: TextDetection | NotComputed) -> Finding:
    title = "Telling them from real documents"
    rule = "green: AUC at most 0.70; yellow: at most 0.90 (0.5 = coin toss, 1 = always right)"
    if isinstance(found, NotComputed):
        return missing_finding("detection", title, found.not_computed, rule)
    sentence = (
        "A linear model on words and runs of characters ranks synthetic and real documents right "
        f"this often; fresh real documents, {found.holdout_auc:.3f}."
    )
    light = grade(found.auc, 0.70, 0.90)
    return Finding("detection", title, f"{found.auc:.3f}", light, sentence, rule)


def _diversity(found: Spread | NotComputed) -> Finding:
    title = "Diversity"
    rule = "green: at least 90 % of that of real documents; yellow: at least 75 %"
    if isinstance(found, NotComputed):
        return missing_finding("diversity", title, found.not_computed, rule)
    ratio = found.diversity / found.real_diversity if found.real_diversity else 1.0
    sentence = (
        "Mean distance between two synthetic documents, relative to that between two real ones. "
        f"They are worth {found.vendi:.0f} entirely different ones (Vendi score); as many real "
        f"documents, {found.real_vendi:.0f}."
    )
    light = GOOD if ratio >= 0.9 else FAIR if ratio >= 0.75 else BAD
    return Finding("diversity", title, f"{100 * ratio:.0f} %", light, sentence, rule)


def _validity(found: DocumentValidity) -> Finding:
    rule = "green: none; yellow: at most 1 % of the documents"
    share = found.num_invalid / max(1, found.num_documents)
    light = GOOD if not found.num_invalid else FAIR if share <= 0.01 else BAD
    sentence = "Documents that break the schema, or code that does not parse."
    tries = sum(found.rejected.values())
    if tries:
        sentence += f" Generation rejected {tries:,} more and made others in their place."
    value = f"{found.num_invalid:,}"
    return Finding("validity", "Invalid documents", value, light, sentence, rule)


def _copies(found: Repetition) -> Finding:
    return _more_often(
        ("copies", "Exact copies"),
        (found.copy_rate, found.holdout_copy_rate),
        (0.01, 0.05),
        "Share of synthetic documents that equal a training document; "
        f"{100 * found.holdout_copy_rate:.2f} % of fresh real ones do so, too.",
        "green: at most one in a hundred more often than fresh real ones; yellow: one in twenty",
    )


def _near_copies(found: Repetition) -> Finding:
    return _more_often(
        ("near_copies", "Near copies"),
        (found.near_copy_rate, found.holdout_near_copy_rate),
        (0.02, 0.10),
        f"Share of synthetic documents that share {100 * found.threshold:.0f} % of their runs of "
        f"words with a training document; {100 * found.holdout_near_copy_rate:.2f} % of fresh real "
        "ones do so, too.",
        "green: at most two in a hundred more often than fresh real ones; yellow: one in ten",
    )


def _duplicates(found: Repetition) -> Finding:
    return _more_often(
        ("duplicates", "Repeated documents"),
        (found.duplicate_share, found.real_duplicate_share),
        (0.02, 0.10),
        "Share of synthetic documents that equal an earlier one; among real ones, "
        f"{100 * found.real_duplicate_share:.2f} %.",
        "green: at most two in a hundred more often than real ones; yellow: one in ten",
    )


def _more_often(
    name: tuple[str, str],
    shares: tuple[float, float],
    limits: tuple[float, float],
    sentence: str,
    rule: str,
) -> Finding:
    """How much more often something happens among synthetic documents than among real ones.

    Args:
        name: Key and title.
        shares: Of synthetic and of real documents.
        limits: Largest difference of the shares that is green, and that is yellow.
        sentence: What was found.
        rule: The limits in words.
    """
    share, real_share = shares
    light = grade(share - real_share, *limits)
    return Finding(*name, f"{100 * share:.2f} %", light, sentence, rule)
