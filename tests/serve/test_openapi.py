"""The OpenAPI document, and whether the service keeps to it."""

import copy

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import (
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.specs.openapi.checks import positive_data_acceptance

from components.serving.app import make_app
from components.serving.keys import ApiKey, hash_key
from components.serving.problems import CODES
from components.serving.schemas import Problem
from tests.serve.servers import make_service, served

KEY = "dlm_key"
MOST = 50


@pytest.fixture(scope="module")
def keyed(plain_model, typed_model, tmp_path_factory):
    """A small service that needs a key."""
    models = {"plain": plain_model, "typed": typed_model}
    keys = [ApiKey(name="tests", sha256=hash_key(KEY))]
    service = make_service(models, keys, rows_per_request=MOST, rows_per_job=MOST)
    with served(service, tmp_path_factory.mktemp("results")) as running:
        yield running
        running.generators.worker.close()


@pytest.fixture(scope="module")
def document(keyed):
    return keyed.client.get("/openapi.json").json()


def describe():
    """The document as schemathesis knows it, with a model that exists and few rows."""
    app = make_app(make_service({}, generators=object()), None)
    generation = GenerationConfig(deterministic=True, max_examples=25)
    project = ProjectConfig(generation=generation, parameters={"path.model": "typed"})
    config = SchemathesisConfig(seed=1, projects=ProjectsConfig(default=project))
    document = copy.deepcopy(app.openapi())
    forms = document["components"]["schemas"]
    for name in ("GenerateRequest", "JobRequest"):
        forms[name]["properties"]["count"]["maximum"] = MOST
    forms["JobRequest"]["properties"]["model"]["enum"] = ["plain", "typed"]
    return schemathesis.openapi.from_dict(document, config=config)


schema = describe()


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case, keyed):
    body = case.body if isinstance(case.body, dict) else {}
    # The columns of a model are not in the document.
    excluded = [positive_data_acceptance] if body.get("conditions") else []
    response = case.call(base_url=keyed.url, headers={"Authorization": f"Bearer {KEY}"})
    case.validate_response(response, excluded_checks=excluded)
    assert response.headers["x-request-id"]


def schemas_with_examples(document):
    found = document["components"]["schemas"]
    return {name: form["examples"] for name, form in found.items() if "examples" in form}


def test_examples_are_valid(document):
    examples = schemas_with_examples(document)
    assert set(examples) == {"GenerateRequest", "JobRequest", "Problem"}
    for name, values in examples.items():
        form = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        for value in values:
            jsonschema.validate(value, form)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**values[0], "other": 1}, form)


def test_every_operation_is_described(document):
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert sorted(operations) == [
        ("DELETE", "/v1/jobs/{job_id}"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/{job_id}"),
        ("GET", "/v1/jobs/{job_id}/files/{name}"),
        ("GET", "/v1/limits"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("GET", "/v1/models/{model}/distributions"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/models/{model}/generate"),
    ]
    for operation in operations.values():
        assert operation["summary"]
        assert operation["description"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]
                assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))


def test_what_needs_a_key_says_so(document, plain_model):
    schemes = document["components"]["securitySchemes"]
    assert {(s["type"], s.get("scheme"), s.get("name")) for s in schemes.values()} == {
        ("http", "bearer", None),
        ("apiKey", None, "X-API-Key"),
    }
    either = [{name: []} for name in schemes]
    for path, methods in document["paths"].items():
        needs = path.startswith(("/v1/models", "/v1/jobs"))
        for operation in methods.values():
            assert operation.get("security") == (either if needs else None)
    is_open = make_app(make_service({}, generators=object()), None).openapi()
    assert is_open["paths"]["/v1/models"]["get"]["security"] == [*either, {}]


def test_the_answer_with_rows_has_its_formats_and_headers(document):
    operation = document["paths"]["/v1/models/{model}/generate"]["post"]
    made = operation["responses"]["200"]
    assert set(made["content"]) == {
        "application/json",
        "application/x-ndjson",
        "text/csv",
        "application/vnd.apache.parquet",
        "application/vnd.apache.arrow.stream",
    }
    assert set(made["headers"]) == {"X-Seed", "X-Rows", "X-Model-Version"}


def test_every_code_has_a_status():
    assert all(400 <= status < 600 for status in CODES.values())
    assert "default" not in Problem.model_json_schema()["properties"]["code"]


def test_the_document_does_not_change_by_being_read(plain_model):
    app = make_app(make_service({"plain": plain_model}, generators=object()), None)
    assert app.openapi() == app.openapi()
