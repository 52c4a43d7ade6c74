"""How much of the service a request may take."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Bounds that keep the service answering.

    Attributes:
        rows_per_request: Most rows of an answer; more are read in pages, or written by a job. What
            a slow reader has not taken yet waits in memory, up to this.
        rows_per_job: Most rows of a job.
        body_bytes: Largest body of a request.
        body_seconds: Time in which a body has to arrive.
        request_seconds: Time in which an answer has to be made.
        concurrent_requests: Answers made at the same time; the others are told to come back.
        spans_ahead: Pieces of an answer that are made ahead of the one that is sent.
        concurrent_jobs: Jobs run at the same time.
        waiting_jobs: Jobs that may wait.
        job_days: Days after which a finished job's files are removed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_per_request: int = Field(default=262_144, ge=1)
    rows_per_job: int = Field(default=1_000_000_000, ge=1)
    body_bytes: int = Field(default=65_536, ge=1024)
    body_seconds: float = Field(default=10, gt=0)
    request_seconds: float = Field(default=900, gt=0)
    concurrent_requests: int = Field(default=128, ge=1)
    spans_ahead: int = Field(default=4, ge=1)
    concurrent_jobs: int = Field(default=2, ge=1)
    waiting_jobs: int = Field(default=100, ge=1)
    job_days: float = Field(default=7, gt=0)
