"""The page as a person sees it; skipped without a browser, except on CI."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from accessible import barriers
from asyndgan.reports.report import write_report


def _fabricate():
    """The run folders of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "test_report.py"
    spec = importlib.util.spec_from_file_location("fabricated_reports", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Watched:
    """A page, and what went on while it was open."""

    page: Page
    address: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    fabricated = _fabricate()
    folder = tmp_path_factory.mktemp("report")
    sites = ("north", "south", "a-hospital-with-a-name-of-no-more-than-sixty-four-characters-no")
    run = fabricated.run_folder(folder / "run", sites, generator_sha256="cd34")
    members = fabricated.ALIKE | {"members": {"north": 40}}
    records = [fabricated.record(n, list(sites[: 2 if n % 7 else 3])) for n in range(40)]
    records[3]["news"] = ["missed south: it is not connected"]
    fabricated.write_metrics(run, records)
    synthetic = [case for site in sites for case in fabricated.cases(site)]
    out = write_report(
        run, folder / "report.html", synthetic=synthetic, real={"north": fabricated.cases("north")},
        evaluation=fabricated.evaluation(folder / "evaluation"),
        audits=[fabricated.audit(folder / "audit", confirmed={"north": True}, groups=members)],
    )  # fmt: skip
    return out.as_uri()


def opened(browser: Browser, address: str, width: int, scheme: str) -> Watched:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched = Watched(page, address)
    page.on("console", lambda message: watched.console.append(message.text))
    page.on("pageerror", lambda error: watched.console.append(str(error)))
    page.on("request", lambda request: watched.requests.append(request.url))
    page.goto(address)
    return watched


@pytest.fixture(params=[(400, "light"), (820, "light"), (1400, "dark"), (1600, "light")], ids=str)
def watched(request, browser, address):
    found = opened(browser, address, *request.param)
    yield found
    found.page.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(watched):
    asked = [url for url in watched.requests if not url.startswith("data:")]
    assert asked == [watched.address]
    assert watched.console == []


def test_every_picture_is_drawn(watched):
    widths = watched.page.eval_on_selector_all(
        "img", "images => images.map(image => image.naturalWidth)"
    )
    assert len(widths) > 40
    assert min(widths) > 0


def test_nothing_sticks_out_sideways(watched):
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert watched.page.evaluate(fits)


def test_nobody_is_kept_out(watched):
    assert barriers(watched.page) == []


def test_the_recipe_opens(watched):
    text = watched.page.locator("details pre")
    assert not text.is_visible()
    watched.page.locator("summary").click()
    assert text.is_visible()
    assert "[generator]" in text.inner_text()


def test_the_two_schemes_differ_and_each_is_readable(browser, address):
    colours = {}
    for scheme in ("light", "dark"):
        found = opened(browser, address, 1000, scheme)
        style = "(({color, backgroundColor}) => [color, backgroundColor])"
        colours[scheme] = found.page.evaluate(f"{style}(getComputedStyle(document.body))")
        found.page.close()
    assert brightness(colours["light"][1]) - brightness(colours["light"][0]) > 150
    assert brightness(colours["dark"][0]) - brightness(colours["dark"][1]) > 150


def brightness(colour: str) -> float:
    """Mean of `rgb(r, g, b)`."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3
