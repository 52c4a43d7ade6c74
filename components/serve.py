"""The generator as an endpoint: what a RayService of a pipeline serves.

    GET  /healthz                        every replica of this process can answer
    GET  /v1/models                      names of the models
    GET  /v1/models/{model}              its columns
    POST /v1/models/{model}/generate     {"count": 10, "seed": 1} -> {"seed": 1, "rows": [...]}

Ray Serve makes it from `build_app` with the arguments of its configuration.
"""

# Ray Serve has no types for its decorators.
# pyright: reportUntypedClassDecorator=false
#
# FastAPI reads annotations where Ray has unpickled them: no `from __future__ import annotations`.

import asyncio
import json
import secrets
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

_MAX_ROWS = 10_000
_MAX_QUEUED = 32


class AppArgs(BaseModel):
    """Arguments of the application.

    Attributes:
        models: URI of the generator of each model, by name.
        num_replicas: copies of each that answer at the same time.
    """

    model_config = ConfigDict(extra="forbid")

    models: dict[str, str] = Field(min_length=1)
    num_replicas: int = Field(default=1, ge=1)


class GenerateRequest(BaseModel):
    """What to generate."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(default=10, ge=1, le=_MAX_ROWS, description="Rows.")
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Same seed, same rows; null: a new one."
    )
    temperature: float = Field(default=1.0, gt=0, description="1 keeps the learned distribution.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Probability mass kept.")


@serve.deployment(max_ongoing_requests=1, max_queued_requests=_MAX_QUEUED)
class GeneratorReplica:
    """One loaded generator; a request at a time, since each uses all its processors."""

    def __init__(self, uri: str) -> None:
        from difflm_core.api import DiffLM

        self._model = DiffLM.from_pretrained(uri)

    async def columns(self) -> list[dict[str, str]]:
        """Name and kind of each column."""
        return [
            {"name": column.name, "kind": str(column.kind)} for column in self._model.schema.columns
        ]

    async def generate(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows as JSON values."""
        return await asyncio.to_thread(self._rows, request)

    def _rows(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        frame = self._model.sample(
            request["count"],
            seed=request["seed"],
            temperature=request["temperature"],
            top_p=request["top_p"],
        )
        text: Any = frame.to_json(orient="records", date_format="iso")
        return json.loads(text)


def make_ingress(models: list[str]) -> FastAPI:
    """The HTTP interface in front of the generators."""
    app = FastAPI(title="DiffLM", description="Synthetic rows on request.")

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, list[str]]:
        return {"models": models}

    return app


def build_app(values: dict[str, Any]) -> serve.Application:
    """Make the application.

    Args:
        values: `AppArgs`, as in `serveConfigV2`.
    """
    args = AppArgs.model_validate(values)
    app = make_ingress(sorted(args.models))

    @serve.deployment(name="ingress")
    @serve.ingress(app)
    class Ingress:
        def __init__(self, **generators: DeploymentHandle[Any]) -> None:
            self._generators = generators

        @app.get("/v1/models/{model}")
        async def describe(self, model: str) -> dict[str, Any]:
            columns = await self._generator(model).columns.remote()
            return {"model": model, "columns": columns}

        @app.post("/v1/models/{model}/generate")
        async def generate(self, model: str, request: GenerateRequest) -> dict[str, Any]:
            generator = self._generator(model)
            values = request.model_dump()
            if values["seed"] is None:
                values["seed"] = secrets.randbelow(2**31)
            try:
                rows = await generator.generate.remote(values)
            except BackPressureError:
                raise HTTPException(
                    503, "All generators are busy.", headers={"Retry-After": "5"}
                ) from None
            return {"model": model, "seed": values["seed"], "rows": rows}

        def _generator(self, model: str) -> DeploymentHandle[Any]:
            if model not in self._generators:
                raise HTTPException(404, f"There is no model {model!r} here.")
            return self._generators[model]

    generators = {
        name: GeneratorReplica.options(
            name=f"generator-{name}", num_replicas=args.num_replicas
        ).bind(uri)
        for name, uri in args.models.items()
    }
    return Ingress.bind(**generators)
