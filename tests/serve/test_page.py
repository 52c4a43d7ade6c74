"""The page in a browser: models, rows, conditions, downloads and jobs."""

import io
import json
import re

import pandas as pd
import pyarrow as pa
import pytest

from components.serving import schemas
from tests.serve.browsing import (
    add_condition,
    finished,
    generate,
    made_width,
    microseconds,
    until,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

GENERATE = "/v1/models/adult/generate"


def test_a_model_is_shown_with_its_quality_and_columns(visit, fake):
    page = visit().open_ready()
    assert page.text_content("h1") == "New rows of adult"
    assert "15 columns · learned from 32,561 rows · target income" in page.text_content("#meta")
    details = fake.tables["adult"].details()
    cards = page.locator(".card").all()
    words = {
        "good": "Good",
        "fair": "Usable with care",
        "bad": "Not good enough",
        "unknown": "Not measured",
    }
    for card, finding in zip(cards, details.quality.findings, strict=True):
        for text in (finding.title, finding.value, words[finding.light], finding.sentence):
            assert text in card.text_content().replace("\u00a0", " ")
        assert finding.light in card.get_attribute("class")
    lines = page.locator("#columns tbody tr").all()
    for line, column in zip(lines, details.columns, strict=True):
        text = line.text_content()
        assert text.startswith(column.name)
        assert column.kind in text
        assert ("target" in text) == column.is_target
        assert text.endswith("yes" if column.nullable else "no")
        for value in column.categories or [column.minimum, column.maximum]:
            assert str(value) in text
    figures = page.locator("#charts figure").all()
    assert len(figures) == 15
    # Training alone, as long as nothing was generated.
    assert not any(made_width(page, "education"))
    assert page.locator("#rows").is_hidden()


def test_rows_and_charts_of_a_seed(visit, fake):
    page = visit().open_ready()
    generate(page, 500, 7)
    finished(page)
    assert fake.bodies(GENERATE) == [
        {
            "count": 500,
            "seed": 7,
            "temperature": 1,
            "top_p": 1,
            "conditions": {},
            "format": "ndjson",
        }
    ]
    frame = fake.tables["adult"].draw(schemas.Sampling(), 500, 7)
    assert page.locator("#rows tbody tr").count() == 200
    for index in (0, 199):
        cells = page.locator("#rows tbody tr").nth(index).locator("td").all_text_contents()
        expected = ["–missing" if pd.isna(v) else str(v) for v in frame.iloc[index]]
        assert cells == [str(index + 1), *expected]
    page.click("#rows-more")
    page.click("#rows-more")
    assert page.locator("#rows tbody tr").count() == 500
    assert page.locator("#rows-more").is_hidden()
    assert "500 rows · seed 7" in page.text_content("#rows-note")
    # The figures that stand beside the charts are those of the rows.
    shares = frame["sex"].value_counts(normalize=True)
    summary = page.locator('figure[data-column="sex"] table').text_content()
    for value, share in shares.items():
        assert re.search(rf"{value}\d+\.\d.%{100 * share:.1f}.%", summary)
    wide, narrow = made_width(page, "sex")
    assert narrow / wide == pytest.approx(shares["Female"] / shares["Male"], abs=0.01)
    missing = frame["occupation"].isna().mean()
    caption = page.locator('figure[data-column="occupation"] figcaption').text_content()
    assert caption.endswith(f"→ {100 * missing:.1f}\u00a0%")


def test_histograms_count_every_row_once(visit, fake):
    # Neither the visitor's zone nor its summer time moves a date.
    page = visit(timezone_id="America/New_York").open_ready("#model=visits")
    generate(page, 400, 3)
    finished(page)
    frame = fake.tables["visits"].draw(schemas.Sampling(), 400, 3)
    edges = {
        column.name: column.edges
        for column in fake.tables["visits"].distributions().columns
        if column.edges
    }
    assert set(edges) == {"arrived", "day", "hour", "cost"}
    for name, part in (("arrived", slice(0, 10)), ("day", slice(0, 10)), ("hour", slice(0, 5))):
        axis = page.locator(f'figure[data-column="{name}"] text').all_text_contents()
        assert [axis[0], axis[-1]] == [edges[name][0][part], edges[name][-1][part]]
    for name, bounds in edges.items():
        rows = page.locator(f'figure[data-column="{name}"] table tbody tr').all()
        shown = [row.locator("td").nth(1).text_content() for row in rows[:-1]]
        values = frame[name].dropna()
        if name != "cost":
            values, bounds = microseconds(values), microseconds(bounds)
        counts = pd.cut(values, list(bounds), include_lowest=True, right=False).value_counts(
            sort=False
        )
        expected = [100 * count / len(values) for count in counts]
        got = [float(text.split("\u00a0")[0]) for text in shown]
        # The last bin takes its upper bound, which pandas leaves out.
        assert got[:-1] == pytest.approx(expected[:-1], abs=0.06)
        assert sum(got) == pytest.approx(100, abs=1.3)


def test_an_empty_seed_asks_for_a_new_one(visit, fake):
    page = visit().open_ready()
    generate(page, 10, None)
    finished(page)
    assert fake.bodies(GENERATE)[0]["seed"] is None
    # What repeats the rows names the seed that the service chose.
    assert "seed=4711" in page.url
    page.click("#repeat summary")
    assert "seed=4711" in page.text_content("#snippets")
    assert page.input_value("#seed") == ""


def test_conditions(visit, fake):
    page = visit().open_ready()
    sex = add_condition(page, "sex")
    sex.get_by_label("Female").check()
    education = add_condition(page, "education")
    education.get_by_label("Search the").fill("ma")
    assert education.locator(".choice:visible").all_text_contents() == ["Masters"]
    education.get_by_label("Masters").check()
    education.get_by_label("Search the").fill("")
    education.get_by_label("Doctorate").check()
    age = add_condition(page, "age")
    age.get_by_label("From").fill("30")
    age.get_by_label("To").fill("40")
    hours = add_condition(page, "hours-per-week")
    hours.get_by_label("From").fill("20")
    add_condition(page, "race")
    add_condition(page, "income")
    page.click("[aria-label='Remove income']")
    assert page.evaluate("document.activeElement.id") == "condition-column"
    generate(page, 100, 1)
    finished(page)
    assert fake.bodies(GENERATE)[0]["conditions"] == {
        "sex": "Female",
        "education": ["Masters", "Doctorate"],
        "age": {"min": 30, "max": 40},
        "hours-per-week": {"min": 20},
    }
    assert "compared with all training rows" in page.text_content("#legend")
    male, female = made_width(page, "sex")
    assert male == 0
    assert female > 0
    page.click("#repeat summary")
    snippets = page.text_content("#snippets")
    assert '"age": {"min": 30, "max": 40}' in snippets
    assert """--where 'age={"min":30,"max":40}'""" in snippets


def test_conditions_of_every_kind(visit, fake):
    page = visit().open_ready("#model=visits")
    add_condition(page, "reason").get_by_label("<script>alert(1)</script>").check()
    add_condition(page, "paid").get_by_label("true").check()
    add_condition(page, "day").get_by_label("From").fill("2024-02-01")
    add_condition(page, "hour").get_by_label("To").fill("18:00:00")
    add_condition(page, "arrived").get_by_label("From").fill("2024-03-01T10:00:30")
    add_condition(page, "cost").get_by_label("To").fill("99.5")
    assert page.locator("#condition-add").is_hidden()  # texts and identifiers take none
    generate(page, 20, 1)
    finished(page)
    assert fake.bodies("/v1/models/visits/generate")[0]["conditions"] == {
        "reason": "<script>alert(1)</script>",
        "paid": True,
        "day": {"min": "2024-02-01"},
        "hour": {"max": "18:00:00"},
        "arrived": {"min": "2024-03-01T10:00:30"},
        "cost": {"max": 99.5},
    }


def test_values_that_look_like_markup_are_text(visit):
    page = visit().open_ready("#model=visits")
    add_condition(page, "reason")
    generate(page, 200, 1)
    finished(page)
    page.click("#card summary")
    for place in ("#rows", "#charts", "#columns", "#condition-list"):
        assert "<script>alert(1)</script>" in page.text_content(place)
        assert "<img src=x onerror=alert(2)>" in page.text_content(place)
    assert page.locator("main script, main img").count() == 0
    assert page.locator("#rows th", has_text="<b>note</b>").count() == 1
    assert "<b>no markup</b>" in page.text_content("#card-body")
    assert page.locator("#card-body a").evaluate_all("links => links.map(a => a.href)") == [
        "https://example.org/"
    ]
    assert page.locator("#quality .none").text_content() == "No evaluation came with this model."


def test_the_model_card_is_laid_out(visit):
    page = visit().open_ready()
    page.click("#card summary")
    card = page.locator("#card-body")
    assert card.locator("h3").text_content() == "Model card: generator of synthetic records"
    assert card.locator("td").all_text_contents()[:4:3] == ["capital_gain", "a | b"]
    assert card.locator("li").all_text_contents() == ["seed: 0", "vae: depth 4, width 256"]
    assert card.locator("pre").text_content() == "difflm sample <this folder> -n 1000"


def test_cancel_stops_the_service_and_keeps_the_rows(visit, fake):
    fake.delay = 0.1
    page = visit().open_ready()
    generate(page, 5000, 7)
    page.wait_for_selector("#rows tbody tr")
    assert page.evaluate("document.activeElement.id") == "cancel"
    assert page.locator("#progress").get_attribute("max") == "5000"
    until(page, "document.getElementById('progress').value >= 100")
    page.click("#cancel")
    finished(page)
    assert "cancelled" in page.text_content("#status")
    assert page.locator("#alert").text_content() == ""
    assert page.evaluate("document.activeElement.id") == "generate"
    for _ in range(50):
        if fake.num_left:
            break
        page.wait_for_timeout(100)
    assert fake.num_left == 1
    kept = page.locator("#rows tbody tr").count()
    assert 100 <= kept < 5000
    assert "Download all 5,000 rows" in page.text_content("#downloads")
    fake.delay = 0.0
    generate(page, 50, 8)
    finished(page)
    assert page.locator("#rows tbody tr").count() == 50


@pytest.mark.parametrize(
    ("name", "form", "ending", "read"),
    [
        ("CSV", "csv", "csv", pd.read_csv),
        ("Parquet", "parquet", "parquet", pd.read_parquet),
        ("NDJSON", "ndjson", "ndjson", lambda file: pd.read_json(file, lines=True)),
        ("Arrow", "arrow", "arrows", lambda file: pa.ipc.open_stream(file).read_pandas()),
    ],
)
def test_a_download_holds_the_rows_that_are_shown(visit, fake, name, form, ending, read):
    page = visit().open_ready()
    add_condition(page, "sex").get_by_label("Female").check()
    generate(page, 300, None)
    finished(page)
    # The form may have been changed since; the file is of the rows in the table.
    page.fill("#count", "5")
    with page.expect_download() as caught:
        page.get_by_role("button", name=name, exact=True).click()
    file = caught.value
    assert file.suggested_filename == f"adult-4711.{ending}"
    body = fake.bodies(GENERATE)[-1]
    assert (body["count"], body["seed"], body["format"]) == (300, 4711, form)
    assert body["conditions"] == {"sex": "Female"}
    frame = read(io.BytesIO(file.path().read_bytes()))
    shown = page.locator("#rows tbody tr td:nth-child(2)").all_text_contents()
    assert frame["age"].astype(str).tolist()[:200] == shown


def test_a_large_table_is_a_job(visit, fake):
    fake.rows_per_request, fake.job_speed = 2000, 2000
    page = visit().open_ready()
    assert page.locator("#job-note").is_hidden()
    page.fill("#count", "6000")
    assert "At most 2,000 rows come at once." in page.text_content("#job-hint")
    page.fill("#seed", "9")
    page.select_option("#job-format", "csv")
    page.get_by_role("button", name="Start a job").click()
    page.wait_for_selector(".job")
    assert fake.bodies("/v1/jobs") == [
        {
            "model": "adult",
            "count": 6000,
            "seed": 9,
            "temperature": 1,
            "top_p": 1,
            "conditions": {},
            "format": "csv",
        }
    ]
    until(page, "document.querySelector('.job progress').value > 0")
    link = page.get_by_role("link", name="part-00000.csv")
    link.wait_for()
    assert "Finished · csv · seed 9" in page.text_content(".job")
    with page.expect_download() as caught:
        link.click()
    assert caught.value.path().read_text() == "job-0/part-00000.csv"
    # A job outlives the page, and can be cancelled.
    fake.job_speed = 100
    page.get_by_role("button", name="Start a job").click()
    page.get_by_role("button", name="Cancel job job-1").click()
    page.wait_for_selector("[data-job=job-1] :text('Cancelled')")
    page.reload()
    page.wait_for_selector("[data-job=job-1] :text('Cancelled')")
    assert page.locator(".job").count() == 2
    assert fake.bodies(GENERATE) == []


def test_a_jobs_file_is_fetched_with_the_key(visit, fake):
    from tests.serve.fake_service import KEY

    fake.key_required, fake.rows_per_request = True, 100
    page = visit().open()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#columns:not([hidden])")
    page.fill("#count", "101")
    page.click("#generate")
    link = page.get_by_role("link", name="part-00000.parquet")
    link.wait_for()
    with page.expect_download() as caught:
        link.click()
    assert caught.value.path().read_text() == "job-0/part-00000.parquet"


def test_many_rows_are_counted_and_few_kept(visit, fake):
    page = visit().open_ready()
    generate(page, 30_000, 1)
    page.wait_for_selector("#downloads button:visible", timeout=60_000)
    assert "The first 20,000 are kept" in page.text_content("#rows-shown")
    shares = fake.tables["adult"].draw(schemas.Sampling(), 30_000, 1)["race"].value_counts()
    summary = page.locator('figure[data-column="race"] table').text_content()
    assert f"{100 * shares['White'] / 30_000:.1f}\u00a0%" in summary


def test_a_link_fills_the_form_and_starts_nothing(visit, fake):
    page = visit().open_ready()
    add_condition(page, "sex").get_by_label("Female").check()
    page.click("#advanced summary")
    page.fill("#temperature", "0.8")
    generate(page, 120, 5)
    finished(page)
    link = page.url.split("/")[-1]
    assert link.startswith("#model=adult&count=120&seed=5&temperature=0.8")
    asked = len(fake.bodies(GENERATE))
    other = visit().open_ready(link)
    assert len(fake.bodies(GENERATE)) == asked
    other.click("#generate")
    finished(other)
    assert fake.bodies(GENERATE)[0] == fake.bodies(GENERATE)[1]
    assert other.locator("#rows tbody").text_content() == page.locator("#rows tbody").text_content()
    visit().open_ready("#model=adult&count=x&seed=&conditions=%7B%22sex")  # cut when copied


def test_one_model_needs_no_choice(visit, fake):
    fake.models = ["adult"]
    page = visit().open_ready()
    assert page.locator("#model").is_hidden()


def test_another_model_ends_the_rows_of_the_first(visit, fake):
    fake.delay = 0.1
    page = visit().open_ready()
    generate(page, 5000)
    page.wait_for_selector("#rows tbody tr")
    page.select_option("#model", "visits")
    until(page, "document.querySelector('h1').textContent === 'New rows of visits'")
    assert page.locator("#rows").is_hidden()
    assert page.locator("#generate").is_visible()
    fake.delay = 0
    generate(page, 20)
    finished(page)
    assert page.locator("#rows tbody tr").count() == 20
    assert page.text_content("#alert") == ""


def test_behind_a_prefix(visit, fake):
    from tests.serve.fake_service import application, serving

    with serving(application(fake, "/tables")) as address:
        page = visit(f"{address}/tables").open_ready()
        generate(page, 20)
        finished(page)
        page.click("#repeat summary")
        assert f"{address}/tables/v1/models/adult/generate" in page.text_content("#snippets")


def test_the_snippets_are_code(visit, fake):
    page = visit().open_ready()
    add_condition(page, "sex").get_by_label("Female").check()
    generate(page, 40, 2)
    finished(page)
    page.click("#repeat summary")
    codes = page.locator("#snippets pre").all_text_contents()
    called = {}

    class Client:
        def __init__(self, address):
            called["address"] = address

        def sample(self, *args, **options):
            called["args"], called["options"] = args, options

    exec(codes[1].split("\n", 2)[2], {"Client": Client})
    assert called == {
        "address": fake.address,
        "args": ("adult", 40),
        "options": {"seed": 2, "conditions": {"sex": "Female"}},
    }
    body = re.search(r"-d '(.*)'", codes[0])[1]
    schemas.GenerateRequest.model_validate(json.loads(body))
