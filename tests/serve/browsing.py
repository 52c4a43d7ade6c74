"""A browser, what a tab shows in it, and how a visitor uses the page."""

import shutil
from urllib.parse import urlsplit

import pandas as pd

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
DESKTOP, PHONE = {"width": 1360, "height": 900}, {"width": 360, "height": 740}


class Visit:
    """A tab: what it shows, where it went, and what its console said."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**{"viewport": DESKTOP, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.address, self.hosts, self.complaints = address, set(), []
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("console", self.note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def note(self, message):
        # The browser itself notes every answer that is an error.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def open(self, view=""):
        self.page.goto(f"{self.address}/{view}")
        return self.page

    def open_ready(self, view=""):
        self.open(view).wait_for_selector("#columns:not([hidden])")
        return self.page

    def close(self):
        hosts = {host for host in self.hosts if host}
        self.context.close()
        assert self.complaints == []
        assert hosts <= {urlsplit(self.address).netloc}


def generate(page, count=500, seed=7):
    page.fill("#count", str(count))
    page.fill("#seed", "" if seed is None else str(seed))
    page.click("#generate")


def finished(page):
    page.wait_for_selector("#downloads button:visible")


def alert(page):
    page.wait_for_selector("#alert:not(:empty)")
    return page.text_content("#alert")


def until(page, expression):
    """Wait for something to be true; the page's policy forbids playwright's own way, by `eval`."""
    for _ in range(100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never true: {expression}")


def add_condition(page, column):
    page.select_option("#condition-column", column)
    page.click("#condition-button")
    return page.locator(f'.condition[data-column="{column}"]')


def microseconds(stamps):
    """ISO 8601 dates, times, or both, as numbers."""
    moments = pd.to_datetime(pd.Series(list(stamps)), format="mixed")
    return moments.astype("datetime64[us]").astype("int64")


def made_width(page, column):
    """Widths of the synthetic bars of a chart."""
    bars = page.locator(f'figure[data-column="{column}"] rect.made').all()
    return [float(bar.get_attribute("width") or 0) for bar in bars]
