"""Small models without free text: every row comes out at the first try."""

import datetime
import random

import pandas as pd
import pytest

from difflm_core.api import DiffLM
from tests.people import SETTINGS, make_people, people_config
from tests.serve.browsing import CHROMIUM, FLAGS, Visit
from tests.serve.servers import make_service, served

KINDS = ['say "hi"', "one,\r\ntwo", "übér ✓", " lead", "plain"]


def make_typed(num_rows=300):
    """A table with types of its own: dictionaries, dates, integers that may be missing."""
    rng = random.Random(0)
    rows = range(num_rows)
    start = datetime.date(2020, 1, 1)
    moments = pd.to_timedelta([rng.randrange(10**9) for _ in rows], unit="ms")
    frame = pd.DataFrame(
        {
            "kind": pd.Categorical([rng.choice(KINDS) for _ in rows]),
            "day": [start + datetime.timedelta(days=rng.randrange(900)) for _ in rows],
            "at": pd.Timestamp("2021-05-05T01:02:03.5") + moments,
            "count": [rng.choice([None, *range(50)]) for _ in rows],
            "size": [rng.gauss(0, 1) for _ in rows],
            "good": [rng.random() < 0.3 for _ in rows],
        }
    )
    frame["count"] = frame["count"].astype("Int16")
    frame.loc[::9, "kind"] = None
    return frame


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """Directory of a finished run on the people without their notes; do not write to it."""
    from difflm_core.stages.pipeline import run_pipeline

    folder = tmp_path_factory.mktemp("plain")
    make_people().drop(columns="note").to_csv(folder / "people.csv", index=False)
    run_pipeline(people_config(folder))
    return folder / "run"


@pytest.fixture(scope="session")
def plain_model(plain_run):
    """URI of a generator learned from CSV."""
    return str(plain_run / "generator")


@pytest.fixture(scope="session")
def typed_model(tmp_path_factory):
    """URI of a generator learned from Parquet."""
    folder = tmp_path_factory.mktemp("typed")
    make_typed().to_parquet(folder / "typed.parquet")
    config = {name: SETTINGS[name] for name in ("vae", "diffusion")}
    model = DiffLM.fit(folder / "typed.parquet", config=config)
    model.save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def server(plain_model, typed_model, tmp_path_factory):
    """An open service of two models."""
    service = make_service(
        {"plain": plain_model, "typed": typed_model}, rows_per_request=100_000, body_seconds=1
    )
    with served(service, tmp_path_factory.mktemp("results")) as running:
        yield running
        running.generators.worker.close()


@pytest.fixture(autouse=True)
def _calm(request):
    """Let generators that a test has held or broken go on for the next one."""
    yield
    if "server" in request.fixturenames:
        generators = request.getfixturevalue("server").generators
        generators.delay_seconds, generators.full = 0.0, False
        generators.held_from = generators.fail_after = None


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def fake_service():
    from tests.serve.fake_service import Fake, application, serving

    fake = Fake()
    with serving(application(fake)) as address:
        fake.address = address
        yield fake


@pytest.fixture
def fake(fake_service):
    """A service for the page, told what to do."""
    fake_service.reset()
    return fake_service


@pytest.fixture
def visit(browser, fake):
    """Opens tabs; at the end none may have complained, or asked another host."""
    visits = []

    def new(address=None, **options):
        visits.append(Visit(browser, address or fake.address, **options))
        return visits[-1]

    yield new
    for each in visits:
        each.close()
