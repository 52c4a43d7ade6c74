"""The page for everybody: by keyboard, on a phone, in every colour scheme."""

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


def test_by_keyboard_alone(visit, fake):
    page = visit().open_ready()
    press = page.keyboard.press

    def focused():
        return page.evaluate(
            "(() => { const e = document.activeElement; return e.id || e.textContent.trim() })()"
        )

    def tab_to(wanted, at_most=40):
        for _ in range(at_most):
            press("Tab")
            if focused() == wanted:
                # What has the focus is seen to have it.
                outline = "getComputedStyle(document.activeElement).outline"
                assert "solid 3px" in page.evaluate(outline)
                return
        raise AssertionError(f"never came to {wanted}; last at {focused()}")

    press("Tab")
    assert focused() == "Skip to rows and figures"
    for wanted in ("model", "count"):
        press("Tab")
        assert focused() == wanted
    press("Control+a")
    page.keyboard.type("60")
    press("Tab")
    page.keyboard.type("3")
    press("Tab")
    assert focused() == "condition-column"
    page.keyboard.type("sex")
    press("Tab")
    press("Enter")  # Add: the focus goes to the first choice
    press("Space")
    tab_to("generate")
    press("Enter")
    finished(page)
    body = fake.bodies(GENERATE)[0]
    assert (body["count"], body["seed"], body["conditions"]) == (60, 3, {"sex": "Male"})
    assert focused() == "generate"
    tab_to("rows-scroll")  # scrolls by keys
    press("Tab")
    assert focused() == "CSV"
    with page.expect_download():
        press("Enter")
    assert focused() == "CSV"
    tab_to("Repeat it elsewhere")
    press("Enter")
    assert page.get_by_role("button", name="Copy: curl").is_visible()
    tab_to("Read it")


def test_the_skip_link_leads_to_the_content(visit):
    page = visit().open_ready()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    assert "model=adult" in page.url  # the view stays in the address


def test_every_input_has_a_name(visit, fake):
    fake.rows_per_request = 100
    page = visit().open_ready("#model=visits")
    for column in ("reason", "arrived", "cost"):
        add_condition(page, column)
    names = """() => [...document.querySelectorAll('input, select, button, progress')]
        .filter((e) => !e.labels?.length && !e.ariaLabel && !e.textContent.trim())
        .filter((e) => e.id !== 'retry' && e.id !== 'rows-more').map((e) => e.outerHTML)"""
    assert page.evaluate(names) == []
    assert page.locator("svg:not([role=img][aria-label])").count() == 0
    twice = "(ids => ids.filter((id, at) => ids.indexOf(id) !== at))"
    assert page.evaluate(f"{twice}([...document.querySelectorAll('[id]')].map(e => e.id))") == []


def test_a_phone_needs_no_scrolling_sideways(visit):
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True).open_ready("#model=visits")
    for column in ("reason", "arrived", "day", "hour", "cost"):
        add_condition(page, column)
    page.click("#advanced summary")
    generate(page, 100)
    finished(page)
    page.click("#repeat summary")
    page.click("#card summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # The table scrolls in a region of its own.
    assert page.evaluate(
        "(e => e.scrollWidth > e.clientWidth)(document.querySelector('#rows-scroll'))"
    )
    page.click("text=See the rows")
    until(page, "Math.abs(document.getElementById('rows').getBoundingClientRect().top) < 60")
    assert page.evaluate("document.activeElement.id") == "rows-title"


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || !e.checkVisibility() || e.disabled || e.closest('.hidden')) continue;
    const style = getComputedStyle(e);
    const color = rgb(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(color), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([e.className, e.textContent.slice(0, 30)]);
  }
  return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(visit, fake, scheme):
    from tests.serve.fake_service import Refusal

    page = visit(color_scheme=scheme).open_ready()
    generate(page, 50)
    finished(page)
    page.click("#repeat summary")
    page.click("#card summary")
    fake.refusals = [Refusal(500, "Something broke.")]
    page.click("#generate")
    alert(page)
    generate(page, 0)
    assert page.evaluate(CONTRAST) == []
    dark = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(dark) == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 20, 27)"}[scheme]


def test_motion_is_left_out_on_request(visit):
    page = visit(reduced_motion="reduce").open_ready()
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
