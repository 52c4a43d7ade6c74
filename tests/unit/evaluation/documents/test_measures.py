"""The measures of corpora: what each one sees, and what it refuses."""

import json

import pytest

from difflm_core.evaluation.documents import measures
from difflm_core.evaluation.documents.measures import Corpora, measure_documents
from difflm_core.evaluation.documents.results import DocumentFigures, DocumentMeasures
from difflm_core.evaluation.parts import PartRunner
from difflm_core.evaluation.results import NotComputed
from tests.unit.evaluation.documents.corpora import CODE, JSON, code_texts, json_texts


def measure(
    synthetic: list[str], train: list[str], test: list[str], schema=JSON, max_documents: int = 5000
) -> tuple[DocumentMeasures, DocumentFigures]:
    figures = DocumentFigures()
    corpora = Corpora(schema, synthetic, train, test, seed=0, max_documents=max_documents)
    return measure_documents(corpora, {"syntax": 2}, figures, PartRunner(None)), figures


@pytest.fixture(scope="module")
def fresh() -> DocumentMeasures:
    return measure(json_texts(200, 1), json_texts(200, 2), json_texts(150, 3))[0]


def test_fresh_real_documents_are_like_real_ones(fresh) -> None:
    assert fresh.validity.valid_share == 1
    assert fresh.validity.first_try_share == pytest.approx(200 / 202)
    assert fresh.detection.auc == pytest.approx(0.5, abs=0.1)
    assert abs(fresh.language.loss_percent) < 5
    assert fresh.language.both < fresh.language.real
    assert fresh.spread.diversity == pytest.approx(fresh.spread.real_diversity, rel=0.05)
    assert fresh.coverage.path == "category"
    assert (fresh.coverage.share, fresh.coverage.holdout_share) == (1, 1)
    assert fresh.coverage.distance < 0.15
    assert fresh.similarity.score == pytest.approx(fresh.holdout_similarity.score, abs=0.03)
    assert fresh.repetition.copy_rate == fresh.repetition.duplicate_share == 0


def test_a_field_is_predicted_from_the_words(fresh) -> None:
    use = fresh.field_use
    assert (use.path, use.num_values) == ("category", 4)
    assert min(use.real, use.synthetic) > 0.95
    assert use.majority < 0.35


def test_a_field_that_means_nothing_teaches_nothing() -> None:
    made = [json.loads(text) for text in json_texts(200, 1)]
    for index, document in enumerate(made):
        document["category"] = ("finance", "sports", "travel", "weather")[index % 4]
    found, _ = measure([json.dumps(d) for d in made], json_texts(200, 2), json_texts(200, 3))
    assert found.field_use.synthetic < 0.6 < 0.95 < found.field_use.real


def test_copies_duplicates_and_near_copies_are_counted() -> None:
    train, test = json_texts(100, 1), json_texts(100, 2)
    near = [text.replace('"arguments":', '"arguments" :') for text in train[20:30]]
    made = [*train[:20], *near, *json_texts(50, 3), *[json_texts(1, 4)[0]] * 20]
    found, figures = measure(made, train, [*test[:99], train[0]])
    seen = found.repetition
    assert seen.copy_rate == pytest.approx(0.2)
    assert seen.holdout_copy_rate == pytest.approx(0.01)
    assert seen.near_copy_rate >= 0.3  # the copies among them
    assert seen.duplicate_share == pytest.approx(0.19)
    assert seen.real_duplicate_share == 0
    assert seen.inner_near_rate >= 0.2
    assert figures.nearest["synthetic"].sum() == pytest.approx(1)
    assert not set(figures.examples) & {*train, *near}


def test_duplicates_are_compared_in_equal_numbers() -> None:
    pool = json_texts(30, 1)
    found, _ = measure(pool * 4, pool * 2, json_texts(30, 2))
    assert found.repetition.duplicate_share == found.repetition.real_duplicate_share == 0.5


def test_examples_are_far_from_training_documents_outside_the_sample() -> None:
    train = json_texts(200, 1)
    # Almost every synthetic document is a training one that the sample of 30 may lack.
    made = [*train[:60], *[text.replace(":", ": ") for text in train[60:120]]]
    found, figures = measure(made, train, json_texts(60, 2), max_documents=30)
    assert figures.examples == ()
    assert found.repetition.near_copy_rate >= 0.3
    own = [json.dumps({"category": "sports", "name": f"n{i} o{i} p{i} q{i}"}) for i in range(60)]
    figures = measure(own, train, json_texts(60, 2), max_documents=30)[1]
    assert len(figures.examples) == measures.NUM_EXAMPLES
    assert set(figures.examples) <= set(own)


def test_missing_categories_are_seen() -> None:
    made = [t for t in json_texts(800, 1) if "travel" not in t and "sports" not in t][:200]
    found, _ = measure(made, json_texts(200, 2), json_texts(200, 3))
    assert (found.coverage.share, found.coverage.holdout_share) == (0.5, 1)
    assert found.coverage.distance > 0.35 > 0.15 > found.coverage.holdout_distance


def test_what_does_not_parse_is_counted_and_stops_nothing() -> None:
    made = [*json_texts(60, 1), *['{"category":"sports","name":"cut o'] * 20, "", "NaN"]
    found, figures = measure(made[::-1], json_texts(80, 2), json_texts(80, 3))
    assert found.validity.num_invalid == 22
    assert not set(figures.examples) & set(made[60:])  # only valid ones are shown
    assert found.validity.reasons == {"not valid JSON": 22}
    for name in ("spread", "detection", "language", "field_use", "coverage", "similarity"):
        assert not isinstance(getattr(found, name), NotComputed), name
    assert found.similarity.validity == pytest.approx(60 / 82, abs=0.05)
    assert found.holdout_similarity.validity == 1


def test_tools_are_recognised_by_the_real_documents() -> None:
    def tools(count: int, kind: str) -> list[str]:
        return [
            json.dumps(
                {
                    "name": f"f{i}",
                    "parameters": {
                        "type": "object",
                        "properties": {"a": {"type": kind}, "b": {"type": "string"}},
                    },
                }
            )
            for i in range(count)
        ]

    found, _ = measure(tools(30, "wish"), tools(30, "integer"), tools(30, "integer"))
    assert (found.arguments.share, found.arguments.real_share) == (0.5, 1)
    assert found.arguments.problems == {"no known type": 30}
    found, _ = measure(json_texts(30, 1), tools(30, "integer"), tools(30, "integer"))
    assert found.arguments == NotComputed("the synthetic documents are no tool descriptions")


def test_code_is_measured_as_text() -> None:
    found, _ = measure(
        [*code_texts(100, 1), "def broken(:\n"], code_texts(100, 2), code_texts(60, 3), CODE
    )
    assert (found.kind, found.validity.num_invalid) == ("code", 1)
    assert found.validity.reasons == {"does not parse": 1}
    assert found.detection.auc == pytest.approx(0.5, abs=0.15)
    for name in ("field_use", "coverage", "arguments", "similarity"):
        assert isinstance(getattr(found, name), NotComputed), name


def test_few_documents_give_reasons() -> None:
    found, _ = measure(json_texts(5, 1), json_texts(5, 2), json_texts(5, 3))
    reason = NotComputed("a side has 5 documents, fewer than 20")
    assert found.detection == found.language == found.spread == found.similarity == reason


def test_empty_documents_give_reasons() -> None:
    found, _ = measure([""] * 30, json_texts(30, 1), json_texts(30, 2))
    assert found.validity.num_invalid == 30
    assert found.language == NotComputed("the documents of a side are empty")


def test_another_embedding_is_used_and_named() -> None:
    def lengths(texts):
        return [[len(text), 1.0] for text in texts]

    corpora = Corpora(
        JSON,
        json_texts(30, 1),
        json_texts(30, 2),
        json_texts(30, 3),
        seed=0,
        max_documents=100,
        embed=lengths,
    )
    found = measure_documents(corpora, {}, DocumentFigures(), PartRunner(None))
    assert corpora.vectors[0].shape == (30, 2)
    assert found.spread.vendi == pytest.approx(1, abs=0.01)  # all vectors point one way
    assert found.embedder == "function"
