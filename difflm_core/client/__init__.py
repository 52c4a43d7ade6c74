"""A client of the service that makes rows; needs the extra `client`.

    from difflm_core.client import Client

    with Client("http://127.0.0.1:8000") as client:  # the key: key=..., or DIFFLM_API_KEY
        for model in client.models():
            print(model.id, model.version, model.headline)
        frame = client.sample("adult", 1000, seed=7, conditions={"age": {"min": 30, "max": 40}})
        for batch in client.stream("adult", 10_000_000, seed=7):  # constant memory
            print(batch.num_rows)
        client.sample_to("adult.parquet", "adult", 5_000_000, seed=7)
        job = client.submit("adult", 100_000_000, seed=7)
        job.wait(on_progress=lambda state: print(state.num_done, "of", state.count))
        paths = job.download("adult/")

Rows are read in pages. What may pass (a busy service, a broken connection) is waited out, and
reading goes on at the row where it stopped: no row comes twice, none is missing. Everything that
the service refuses is a `ServiceError`.
"""

from difflm_core.client.answers import (
    Column,
    Finding,
    JobFile,
    JobState,
    Limits,
    Model,
    ModelDetails,
    Quality,
    ServiceError,
)
from difflm_core.client.jobs import Job
from difflm_core.client.service import Client

__all__ = [
    "Client",
    "Column",
    "Finding",
    "Job",
    "JobFile",
    "JobState",
    "Limits",
    "Model",
    "ModelDetails",
    "Quality",
    "ServiceError",
]
