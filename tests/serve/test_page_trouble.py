"""What the page says when something is wrong: keys, quotas, broken answers, wrong values."""

import re

import pytest

from tests.serve.browsing import (
    PHONE,
    add_condition,
    alert,
    finished,
    generate,
    until,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

GENERATE = "/v1/models/adult/generate"


def test_a_key_is_asked_for_and_kept_in_the_session(visit, fake):
    from tests.serve.fake_service import KEY

    fake.key_required = True
    tab = visit()
    page = tab.open()
    page.wait_for_selector("#key-dialog[open]")
    assert page.get_attribute("#key", "type") == "password"
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('key-reason').textContent === 'This key is not known.'")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#columns:not([hidden])")
    generate(page, 50)
    finished(page)
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [
        1,
        0,
        "",
    ]
    assert KEY not in page.url + page.content()
    page.click("#repeat summary")
    assert "Bearer $DIFFLM_KEY" in page.text_content("#snippets")
    page.reload()
    page.wait_for_selector("#columns:not([hidden])")
    page.click("#forget-key")
    page.wait_for_selector("#key-dialog[open]")
    page.click("#key-cancel")
    assert alert(page) == "This key is not known."


def test_a_model_that_the_key_does_not_open_is_named(visit, fake):
    fake.forbidden = {"visits"}
    page = visit().open_ready()
    page.select_option("#model", "visits")
    assert alert(page) == "No access to visits. This key does not open it."
    assert page.input_value("#model") == "adult"
    assert page.text_content("h1") == "New rows of adult"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_says_when_to_try_again(visit, fake, status):
    from tests.serve.fake_service import Refusal

    fake.refusals = [Refusal(status, "Too busy; try again in 2 s.", retry_after=2)]
    page = visit().open_ready()
    generate(page, 50)
    assert alert(page) == "Too busy; try again in 2 s."
    assert page.is_disabled("#retry")
    assert re.fullmatch(r"Try again in [12] s", page.text_content("#retry"))
    page.wait_for_selector("#retry:not([disabled])")
    assert page.text_content("#retry") == "Try again"
    page.click("#retry")
    finished(page)
    assert page.locator("#trouble").is_hidden()
    first, second = fake.bodies(GENERATE)
    assert first == second


def test_a_broken_stream_keeps_what_came(visit, fake):
    fake.break_after, fake.delay = 200, 0.02
    page = visit().open_ready()
    generate(page, 1000, None)
    text = alert(page)
    kept = page.locator("#rows tbody tr").count()
    assert 0 < kept <= 200
    assert text.startswith(f"The connection broke after {kept} of 1,000 rows. They are kept here")
    fake.break_after = None
    page.click("#retry")
    until(page, "document.getElementById('rows-note').textContent.startsWith('1,000')")
    # The rows of the table that broke, not of another one.
    assert [body["seed"] for body in fake.bodies(GENERATE)] == [None, 4711]


def test_what_the_service_finds_wrong_stands_beside_its_input(visit, fake):
    page = visit().open_ready()
    age = add_condition(page, "age")
    age.get_by_label("From").fill("50")
    age.get_by_label("To").fill("40")
    generate(page, 50)
    assert alert(page) == "The request has 1 wrong value."
    assert age.locator(".problem").text_content() == "min is above max."
    assert age.get_by_label("From").get_attribute("aria-invalid") == "true"
    assert age.get_by_label("From").evaluate("input => input === document.activeElement")
    assert page.get_by_label("From").get_attribute("aria-describedby") == age.locator(
        ".problem"
    ).get_attribute("id")
    age.get_by_label("To").fill("60")
    page.click("#generate")
    finished(page)
    assert age.locator(".problem").text_content() == ""
    assert page.locator("#trouble").is_hidden()


def test_what_the_page_finds_wrong_is_not_sent(visit, fake):
    page = visit().open_ready()
    generate(page, 0, 2**31)
    assert page.text_content("#count-problem") == "A whole number from 1 to 10,000,000."
    assert page.text_content("#seed-problem") == "At most 2,147,483,647."
    assert page.evaluate("document.activeElement.id") == "count"
    page.fill("#count", "10")
    page.fill("#seed", "1")
    page.click("#advanced summary")
    page.fill("#top_p", "2")
    page.click("#advanced summary")
    page.click("#generate")
    assert page.locator("#top_p-problem").text_content() == "At most 1."
    assert page.evaluate("document.activeElement.id") == "top_p"  # what was closed has opened
    assert fake.bodies(GENERATE) == []


def test_trouble_is_seen_wherever_the_page_was_scrolled(visit, fake):
    from tests.serve.fake_service import Refusal

    for options in ({}, {"viewport": PHONE}):
        fake.refusals = [Refusal(500, "Something broke.")]
        page = visit(**options).open_ready()
        page.evaluate("document.getElementById('card').scrollIntoView({behavior: 'instant'})")
        page.evaluate("document.getElementById('form').requestSubmit()")
        alert(page)
        box = "document.getElementById('trouble').getBoundingClientRect()"
        until(page, f"{box}.top >= 0 && {box}.bottom <= innerHeight")


def test_a_question_for_the_key_that_was_closed_can_be_asked_again(visit, fake):
    from tests.serve.fake_service import KEY

    fake.key_required = True
    page = visit().open()
    page.wait_for_selector("#key-dialog[open]")
    page.keyboard.press("Escape")
    alert(page)
    page.click("#retry")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#columns:not([hidden])")
    assert page.locator("#trouble").is_hidden()
