"""What is told of a model: its columns, its card, how its training values are distributed."""

from __future__ import annotations

from components.serving.registry import Model
from components.serving.schemas import Distributions, ModelDetails


def details_of(model: Model) -> ModelDetails:
    """Columns, card and quality."""
    return ModelDetails(
        **model.summary.model_dump(),
        columns=[],
        card=model.card,
        quality=model.quality,
    )


def distributions_of(model: Model) -> Distributions:
    """Distributions of the training values, as the codec knows them."""
    return Distributions(columns=[])
