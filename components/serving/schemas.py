"""What goes over the wire: requests, answers and errors, with the examples of the OpenAPI page."""

# FastAPI reads annotations where Ray has unpickled them: no `from __future__ import annotations`.

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Format = Literal["json", "ndjson", "csv", "parquet", "arrow"]
JobFormat = Literal["parquet", "csv", "jsonl"]
JobStatus = Literal["waiting", "running", "succeeded", "failed", "cancelled"]
Light = Literal["good", "fair", "bad", "unknown"]
Scalar = bool | int | float | str
MAX_SEED = 2**31 - 1
MAX_FIRST = 2**50
# What an answer says beside its rows.
REQUEST_ID_HEADER = "X-Request-Id"
SEED_HEADER = "X-Seed"
ROWS_HEADER = "X-Rows"
VERSION_HEADER = "X-Model-Version"


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON has one type of numbers: 5.0 is a whole one; "5" and true are none.
Whole = Annotated[int, BeforeValidator(_whole)]


class Message(BaseModel):
    """Base of everything that is sent: unknown keys, and "1" for 1, are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Range(Message):
    """Numbers, or ISO 8601 dates and times, between two bounds, both included."""

    min: int | float | str | None = None
    max: int | float | str | None = None


Condition = Scalar | None | list[Scalar | None] | Range


class Sampling(Message):
    """How rows are drawn; the same for an answer and for a job."""

    seed: Whole | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Same seed, same rows, also by `difflm sample`; null: a new one, which the "
        "answer tells.",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=10, description="1 keeps the learned distribution."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Probability mass kept at every token; 1 keeps all."
    )
    conditions: dict[str, Condition] = Field(
        default_factory=dict[str, Condition],
        max_length=1000,
        description="By column: a value, a list of values, or {min, max}; null asks for missing "
        "values. Every row meets all.",
    )


class GenerateRequest(Sampling):
    """Rows, answered at once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"count": 10, "seed": 1},
                {"count": 1000, "format": "csv", "conditions": {"age": {"min": 30, "max": 40}}},
            ]
        }
    )

    count: Whole = Field(default=10, ge=1, description="Rows.")
    first: Whole = Field(
        default=0,
        ge=0,
        le=MAX_FIRST,
        multiple_of=1024,
        description="Index of the first row in the table of the seed: a large table can be read "
        "in pages of a multiple of 1024 rows.",
    )
    format: Format = Field(
        default="json",
        description="json: one object with the rows; ndjson: an object per line; arrow: an IPC "
        "stream.",
    )


class JobRequest(Sampling):
    """Rows, written to files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "adult", "count": 1_000_000, "seed": 1}]}
    )

    model: str
    count: Whole = Field(ge=1, description="Rows.")
    format: JobFormat = "parquet"


class Rows(Message):
    """The answer to a request for json."""

    model: str
    version: str
    seed: int
    rows: list[dict[str, Any]]


class ModelSummary(Message):
    """A model in the list.

    Attributes:
        version: beginning of the hash of its content; it changes when the model is replaced.
        headline: what its evaluation says in a sentence; null if there is none.
    """

    id: str
    version: str
    num_columns: int
    num_training_rows: int | None
    target: str | None
    headline: str | None


class ModelList(Message):
    """All models."""

    models: list[ModelSummary]


class ColumnInfo(Message):
    """A column.

    Attributes:
        kind: categorical, boolean, integer, float, datetime, date, time, text, identifier or
            constant.
        categories: values that are generated, in the order of the training table; null if the
            column has no closed list.
        minimum: smallest number or date that is generated; null where there is none.
        conditional: whether rows can be asked for by its values.
    """

    name: str
    kind: str
    nullable: bool
    is_target: bool
    categories: list[Scalar] | None
    minimum: int | float | str | None
    maximum: int | float | str | None
    conditional: bool


class Finding(Message):
    """A line of the evaluation."""

    title: str
    value: str
    light: Light
    sentence: str


class Quality(Message):
    """What the evaluation of the model's run says."""

    light: Light
    headline: str
    findings: list[Finding]


class ModelDetails(ModelSummary):
    """A model: columns, card (Markdown) and quality."""

    columns: list[ColumnInfo]
    card: str
    quality: Quality | None


class Distribution(Message):
    """Shares of the training values of a column.

    Attributes:
        labels: values, for a column with few; `shares` has one number for each.
        edges: bounds of bins (numbers, or ISO 8601 dates and times), for a column with many
            numbers; one more than `shares`.
        shares: shares of the rows whose value is present; they add up to 1, or to less if
            `labels` leaves out rare values.
        missing: share of the rows without a value.
    """

    name: str
    labels: list[Scalar] | None
    edges: list[int | float | str] | None
    shares: list[float]
    missing: float


class Distributions(Message):
    """Training distributions; columns of free text and identifiers have none."""

    columns: list[Distribution]


class LimitsInfo(Message):
    """What the service allows."""

    keys_required: bool
    rows_per_request: int
    rows_per_job: int
    formats: list[str]
    job_formats: list[str]


class JobFile(Message):
    """A file of a job's result."""

    name: str
    bytes: int
    rows: int
    url: str


class Job(Message):
    """A job.

    Attributes:
        num_done: rows written so far.
        result_uri: folder of the files, for those who can read the service's storage.
        files: what can be downloaded; complete once the job has succeeded.
        error: why it failed.
    """

    id: str
    model: str
    version: str
    status: JobStatus
    count: int
    num_done: int
    seed: int
    format: JobFormat
    created_utc: str
    finished_utc: str | None
    result_uri: str
    files: list[JobFile]
    error: str | None


class JobList(Message):
    """The caller's jobs, the newest first."""

    jobs: list[Job]


class FieldProblem(Message):
    """A key of a request that is wrong."""

    field: str
    message: str


class Problem(Message):
    """An error (RFC 9457, application/problem+json).

    Attributes:
        code: for programs: one of `problems.CODES`.
        detail: for people: what was found, what was expected.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Too Many Requests",
                    "status": 429,
                    "code": "rate_limited",
                    "detail": "This key may make 60 requests a minute; try again in 2 s.",
                    "request_id": "4f1c2c1e9a554a3a",
                    "retry_after_seconds": 2,
                    "errors": [],
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    retry_after_seconds: int | None = None
    errors: list[FieldProblem] = Field(default_factory=list[FieldProblem])


class Health(Message):
    """Whether the service works; `detail` says what is missing."""

    status: Literal["ok", "unavailable"]
    detail: str | None = None
