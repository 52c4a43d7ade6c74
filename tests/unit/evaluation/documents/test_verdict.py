"""Traffic lights and the headline of documents, at their limits."""

import dataclasses

import pytest

from difflm_core.evaluation.documents.embedding import Spread
from difflm_core.evaluation.documents.results import (
    DocumentMeasures,
    DocumentValidity,
    LanguageUsefulness,
    Repetition,
    TextDetection,
)
from difflm_core.evaluation.documents.verdict import judge_documents
from difflm_core.evaluation.results import Fidelity, NotComputed

NOTHING = NotComputed("too few")
REPETITION = Repetition(
    duplicate_share=0.0,
    real_duplicate_share=0.0,
    copy_rate=0.0,
    holdout_copy_rate=0.0,
    near_copy_rate=0.0,
    holdout_near_copy_rate=0.0,
    nearest_median=0.2,
    holdout_nearest_median=0.2,
    inner_near_rate=0.0,
    real_inner_near_rate=0.0,
    threshold=0.8,
)
MEASURES = DocumentMeasures(
    kind="json",
    validity=DocumentValidity(0, {}, {}, 1000),
    repetition=REPETITION,
    spread=Spread(0.9, 0.9, 30, 30, 0.9, 0.9, 0.9, 0.9, 500),
    detection=TextDetection(0.5, 0.01, 0.5),
    language=LanguageUsefulness(2.0, 2.0, 1.9, 0.01, 0.01, 0.01, 1000),
    field_use=NOTHING,
    coverage=NOTHING,
    arguments=NOTHING,
    similarity=NOTHING,
    holdout_similarity=NOTHING,
    embedder="none",
)
FIDELITY = Fidelity(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, (), (), 0, NOTHING)


def judge(**changes):
    return judge_documents(dataclasses.replace(MEASURES, **changes), FIDELITY)


def light_of(key: str, **changes) -> str:
    return {finding.key: finding.light for finding in judge(**changes).findings}[key]


def repeated(**changes) -> dict[str, Repetition]:
    return {"repetition": dataclasses.replace(REPETITION, **changes)}


def test_all_is_well() -> None:
    verdict = judge()
    assert verdict.light == "good"
    assert {finding.light for finding in verdict.findings} == {"good"}
    assert verdict.headline == (
        "The synthetic documents are very close to the real ones, and do not copy their training "
        "documents."
    )


@pytest.mark.parametrize(
    ("key", "good", "fair", "bad"),
    [
        (
            "language",
            *(
                {"language": dataclasses.replace(MEASURES.language, synthetic=v)}
                for v in (2.19, 2.5, 2.7)
            ),
        ),
        ("detection", *({"detection": TextDetection(v, 0.0, 0.5)} for v in (0.69, 0.89, 0.91))),
        (
            "diversity",
            *(
                {"spread": dataclasses.replace(MEASURES.spread, diversity=v)}
                for v in (0.82, 0.7, 0.6)
            ),
        ),
        (
            "validity",
            *({"validity": DocumentValidity(v, {}, {}, 1000)} for v in (0, 10, 11)),
        ),
        ("copies", *(repeated(copy_rate=v) for v in (0.009, 0.04, 0.06))),
        ("near_copies", *(repeated(near_copy_rate=v) for v in (0.019, 0.09, 0.11))),
        ("duplicates", *(repeated(duplicate_share=v) for v in (0.019, 0.09, 0.11))),
    ],
)
def test_lights_at_their_limits(key, good, fair, bad) -> None:
    assert [light_of(key, **change) for change in (good, fair, bad)] == ["good", "fair", "bad"]
    assert [judge(**change).light for change in (good, fair, bad)] == ["good", "fair", "bad"]


def test_what_fresh_documents_do_too_is_no_fault() -> None:
    changes = repeated(
        copy_rate=0.3,
        holdout_copy_rate=0.3,
        near_copy_rate=0.4,
        holdout_near_copy_rate=0.39,
        duplicate_share=0.2,
        real_duplicate_share=0.2,
    )
    assert judge(**changes).light == "good"


def test_headlines_join_quality_and_privacy() -> None:
    copied = judge(**repeated(copy_rate=0.5)).headline
    assert copied.endswith("very close to the real ones, but give away training documents.")
    differing = judge(detection=TextDetection(0.99, 0.0, 0.5)).headline
    assert "differ clearly from the real ones, but do not copy" in differing
    both = judge(detection=TextDetection(0.99, 0.0, 0.5), **repeated(copy_rate=0.5)).headline
    assert "differ clearly from the real ones, and give away training documents" in both
    one = judge(validity=DocumentValidity(1, {}, {}, 1000)).headline
    assert one.endswith("; 1 document is invalid.")
    many = judge(validity=DocumentValidity(1200, {}, {}, 2000)).headline
    assert many.endswith("; 1,200 documents are invalid.")


def test_nothing_measured_is_not_called_good() -> None:
    changes = dict.fromkeys(("language", "detection", "spread"), NOTHING)
    verdict = judge_documents(dataclasses.replace(MEASURES, **changes), NOTHING)
    assert verdict.headline.startswith("The likeness to the real documents could not be measured")
    unknown = {finding.key for finding in verdict.findings if finding.light == "unknown"}
    assert unknown == {"language", "detection", "diversity", "shape"}
    assert "Not computed: too few." in {finding.sentence for finding in verdict.findings}
