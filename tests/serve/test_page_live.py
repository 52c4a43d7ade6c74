"""The page and the service together: what a visitor sees is what the service makes."""

import io
import json

import httpx
import pandas as pd
import pytest

from tests.serve.browsing import Visit, add_condition, finished, generate
from tests.serve.servers import make_service, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def live(plain_run, tmp_path_factory):
    """The real application, open."""
    service = make_service({"people": str(plain_run / "generator")}, rows_per_request=2048)
    with served(service, tmp_path_factory.mktemp("results")) as running:
        yield running
        running.generators.worker.close()


@pytest.fixture
def page(browser, live):
    visit = Visit(browser, live.url)
    yield visit.open_ready()
    visit.close()


def rows_shown(page):
    """The first rows of the table, cell by cell."""
    return [
        row.locator("td").all_text_contents() for row in page.locator("#rows tbody tr").all()[:5]
    ]


def test_the_model_is_shown_as_the_service_describes_it(page, live):
    details = live.client.get("/v1/models/people").json()
    assert page.text_content("h1") == "New rows of people"
    shown = page.text_content("#columns")
    for column in details["columns"]:
        assert column["name"] in shown
    assert details["quality"]["headline"] in page.text_content("#quality")
    assert "Model card" in page.content()


def test_rows_charts_and_downloads_are_those_of_the_seed(page, live):
    generate(page, count=300, seed=7)
    finished(page)
    answer = live.generate("people", count=300, seed=7, format="ndjson")
    expected = [json.loads(line) for line in answer.content.splitlines()]
    for cells, row in zip(rows_shown(page), expected, strict=False):
        assert str(row["age"]) in cells
        assert row["person"] in cells
    charts = live.client.get("/v1/models/people/distributions").json()["columns"]
    assert {column["name"] for column in charts} >= {"age", "job", "pay", "joined"}
    drawn = page.locator("#distributions figure").all()
    assert len(drawn) == len(charts)
    for kind, suffix in (("CSV", "csv"), ("Parquet", "parquet")):
        with page.expect_download() as caught:
            page.click(f"#downloads button:has-text('{kind}')")
        content = caught.value.path().read_bytes()
        same = live.generate("people", count=300, seed=7, format=suffix)
        assert content == same.content


def test_values_are_fixed(page, live):
    condition = add_condition(page, "job")
    condition.locator("input[type=checkbox]").first.check()
    generate(page, count=50, seed=3)
    finished(page)
    with page.expect_download() as caught:
        page.click("#downloads button:has-text('CSV')")
    frame = pd.read_csv(io.BytesIO(caught.value.path().read_bytes()))
    assert len(frame) == 50
    assert frame["job"].nunique() == 1


def test_too_many_rows_become_a_job(page, live):
    page.fill("#count", "5000")
    page.fill("#seed", "2")
    page.click("#submit-job:visible, #generate")
    page.wait_for_selector(
        "#jobs a:visible, #jobs button:has-text('part-'):visible", timeout=60_000
    )
    (job,) = live.client.get("/v1/jobs").json()["jobs"]
    assert (job["status"], job["num_done"], job["count"]) == ("succeeded", 5000, 5000)


def test_the_page_asks_for_a_key_when_the_service_does(browser, plain_run):
    from components.serving.keys import ApiKey, hash_key

    keys = [ApiKey(name="me", sha256=hash_key("secret"))]
    service = make_service({"people": str(plain_run / "generator")}, keys)
    with served(service) as running:
        visit = Visit(browser, running.url)
        page = visit.open()
        page.fill("input[type=password]", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#columns:not([hidden])")
        generate(page, count=5, seed=1)
        finished(page)
        visit.close()
        assert httpx.get(f"{running.url}/v1/models").status_code == 401
        running.generators.worker.close()
