"""Pipelines on a Kubeflow server: upload, run, wait, and what has failed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difflm_core.errors import StageError
from pipelines.compile import compile_text, load_pipeline

_LOGGER = logging.getLogger("difflm.pipeline")
_DONE = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
_POLL_SECONDS = 5.0
_KNOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Server:
    """A Kubeflow server.

    Attributes:
        endpoint: its URL; None: as kfp finds it, inside the cluster or by kubeconfig.
        namespace: of the user, where Kubeflow separates users.
        token: bearer token.
        service_account: that the steps of a run get; None: the server's.
    """

    endpoint: str | None = None
    namespace: str | None = None
    token: str | None = None
    service_account: str | None = None


@dataclass(frozen=True)
class RunState:
    """A run as the server tells it.

    Attributes:
        run_id: its id.
        state: such as RUNNING or SUCCEEDED.
        error: why it failed, if it did.
        tasks: name, state and error of each step that has begun, in order.
    """

    run_id: str
    state: str
    error: str | None
    tasks: tuple[tuple[str, str, str | None], ...]

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.state in _DONE


class PipelineClient:
    """Submits pipelines and follows their runs."""

    def __init__(self, server: Server) -> None:
        """Connect.

        Raises:
            StageError: no Kubeflow answers, or it refuses the token.
        """
        from kfp import Client

        self._server = server
        with _explained(server, "connect"), warnings.catch_warnings():
            # It warns that it is made for the second version of Kubeflow Pipelines.
            warnings.simplefilter("ignore", FutureWarning)
            _require_answer(server)
            self._client: Any = Client(
                host=server.endpoint,
                namespace=server.namespace or "kubeflow",
                existing_token=server.token,
            )

    def submit(
        self, name: str, arguments: Mapping[str, Any], experiment: str, run_name: str
    ) -> str:
        """Upload a pipeline (a new version of it, if it has changed), and run it.

        Args:
            name: of the pipeline.
            arguments: values of its parameters.
            experiment: what the run is listed under; made if there is none.
            run_name: name of the run.

        Returns:
            The id of the run.

        Raises:
            StageError: the server does not answer, or refuses.
        """
        # The client prints where things are; results of a command go to stdout.
        with _explained(self._server, "submit"), contextlib.redirect_stdout(sys.stderr):
            pipeline_id, version_id = self._upload(name)
            made = self._client.create_experiment(experiment, namespace=self._server.namespace)
            run = self._client.run_pipeline(
                experiment_id=made.experiment_id,
                job_name=run_name,
                params=dict(arguments),
                pipeline_id=pipeline_id,
                version_id=version_id,
                # Stages know themselves what they may reuse.
                enable_caching=False,
                service_account=self._server.service_account,
            )
        return str(run.run_id)

    def _upload(self, name: str) -> tuple[str, str]:
        """Upload the pipeline under a version named by its content; find it if it is there."""
        text = compile_text(name)
        title = load_pipeline(name).name
        version = f"{title}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        with tempfile.TemporaryDirectory(prefix="difflm-") as folder:
            path = Path(folder) / f"{name}.yaml"
            path.write_text(text, "utf-8")
            pipeline_id = self._client.get_pipeline_id(title)
            if pipeline_id is None:
                pipeline_id = self._client.upload_pipeline(str(path), title).pipeline_id
            found = self._find_version(pipeline_id, version)
            if found is None:
                made = self._client.upload_pipeline_version(
                    str(path), version, pipeline_id=pipeline_id
                )
                found = made.pipeline_version_id
        return str(pipeline_id), str(found)

    def _find_version(self, pipeline_id: str, name: str) -> str | None:
        token = ""
        while True:
            page = self._client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
            for version in page.pipeline_versions or []:
                if version.display_name == name:
                    return str(version.pipeline_version_id)
            token = page.next_page_token
            if not token:
                return None

    def state(self, run_id: str) -> RunState:
        """How a run stands.

        Raises:
            StageError: there is no such run, or the server does not answer.
        """
        with _explained(self._server, f"find the run {run_id}"):
            run = self._client.get_run(run_id)
        details = (run.run_details.task_details if run.run_details else None) or []
        tasks = [
            (task.display_name, str(task.state), _message(task.error))
            for task in sorted(details, key=lambda task: str(task.create_time))
            # Kubeflow lists its own drivers as steps, too.
            if not task.display_name.endswith("-driver")
        ]
        return RunState(run_id, str(run.state), _message(run.error), tuple(tasks))

    def wait(
        self, run_id: str, timeout_seconds: float, poll_seconds: float = _POLL_SECONDS
    ) -> RunState:
        """Wait for a run, telling each step's progress.

        Raises:
            StageError: it has failed (with the messages of its steps), or takes too long.
        """
        deadline = time.monotonic() + timeout_seconds
        told: dict[str, str] = {}
        while True:
            state = self.state(run_id)
            for name, task_state, _ in state.tasks:
                if told.get(name) != task_state:
                    told[name] = task_state
                    _LOGGER.info("%s: %s", name, task_state.lower())
            if state.done:
                break
            if time.monotonic() > deadline:
                raise StageError(
                    f"The run {run_id} is still {state.state} after {timeout_seconds:.0f} s; it "
                    f"goes on. Look again: difflm pipeline status {run_id}"
                )
            time.sleep(poll_seconds)
        if state.state != "SUCCEEDED":
            raise StageError(word_failure(state))
        return state


def word_failure(state: RunState) -> str:
    """Say which steps of a run failed, and why."""
    lines = [f"The run {state.run_id} has ended as {state.state}."]
    if state.error:
        lines.append(f"  {state.error}")
    failed = [task for task in state.tasks if task[1] == "FAILED"]
    lines += [
        f"  {name}: {error or 'no message here; see its log in the dashboard'}"
        for name, _, error in failed
    ]
    return "\n".join(lines)


def _message(error: Any) -> str | None:
    return str(error.message) if error is not None and error.message else None


@contextlib.contextmanager
def _explained(server: Server, what: str) -> Generator[None]:
    """Turn errors of kfp's client into one message."""
    import urllib3
    from kfp_server_api.exceptions import ApiException

    where = server.endpoint or "Kubeflow"
    try:
        yield
    except ApiException as error:
        if error.status in (401, 403):
            raise StageError(
                f"{where}: not allowed to {what} ({error.status} {error.reason}). Set "
                "KFP_EXISTING_TOKEN, and --namespace to one of yours."
            ) from None
        raise StageError(f"{where}: could not {what}: {error.status} {_reason(error)}") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise StageError(
            f"{where}: no Kubeflow answers here ({type(error).__name__}). Expected the URL of its "
            "API, such as http://127.0.0.1:8080 (--endpoint or KFP_ENDPOINT)."
        ) from None


def _require_answer(server: Server) -> None:
    """Knock first: the client itself tries for half a minute, and logs each failure at length."""
    import urllib3
    from kfp_server_api.exceptions import ApiException

    if server.endpoint is None:  # where it is, the client finds out
        return
    answer = urllib3.request(
        "GET",
        f"{server.endpoint.rstrip('/')}/apis/v2beta1/healthz",
        headers={"authorization": f"Bearer {server.token}"} if server.token else {},
        timeout=_KNOCK_SECONDS,
        retries=False,
    )
    if answer.status >= 400:
        error = ApiException(status=answer.status, reason=answer.reason)
        error.body = answer.data
        raise error


def _reason(error: Any) -> str:
    try:
        values = json.loads(error.body)
        return str(values.get("error") or values.get("message") or error.reason)
    except (TypeError, ValueError):
        return str(error.reason)
