"""The page as a person sees it; skipped without a browser, except on CI."""

import importlib.util
from pathlib import Path

import pytest

from accessible import barriers
from asyndgan.reports.report import write_report

ROOT = "document.documentElement"
COLOURS = (
    "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
)


def _fabricate():
    """The run folders of the unit tests."""
    path = Path(__file__).parents[1] / "unit" / "test_report.py"
    spec = importlib.util.spec_from_file_location("fabricated_reports", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (820, "light"), (1400, "dark")])
def test_the_page_is_whole_readable_and_open_to_everybody_and_asks_for_nothing(
    browser, address, width, scheme
):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(sizes) > 40 and min(sizes) > 0
    assert page.evaluate(f"{ROOT}.scrollWidth <= {ROOT}.clientWidth")  # nothing sticks out sideways
    assert barriers(page) == []
    light, dark = map(brightness, page.evaluate(COLOURS)[:: 1 if scheme == "dark" else -1])
    assert light - dark > 150
    recipe = page.locator("details pre")
    assert not recipe.is_visible()
    page.locator("summary").click()
    assert "[generator]" in recipe.inner_text()
    assert [url for url in asked if not url.startswith("data:")] == [address] and said == []
    page.close()


def brightness(colour: str) -> float:
    """Mean of `rgb(r, g, b)`."""
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3
