"""A federation from nothing to a released set: by at most twelve commands, all else on its pages.

Sites choose by seeds that the coordinator knows (`allows.known_start`), so that the audit is the
same every time. Of a generator that has learned nothing, chance finds members in some sites' data:
with these seeds in none, and by far.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accessible import barriers
from asyndgan.auditing.record import read_audit
from asyndgan.engines.flare.localhost import free_port
from asyndgan.export.arrays import from_arrays
from asyndgan.privacy import ledger
from commands import PUBLISHER, asyndgan
from waiting import until

COMMAND = str(Path(sys.executable).with_name("asyndgan"))
SITES = {"north": 0, "south": 5}  # with the seeds of their patients
MOST, MOST_S = 12, 600  # commands; seconds of one step on a busy machine

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="FLARE's own limit")


def hospital(folder: Path, seed: int, patients: int) -> Path:
    """Patients who differ by chance alone: an organ with a lesion, brighter than what is around."""
    random = np.random.default_rng(seed)
    masks = np.zeros((patients, 16, 16), np.uint8)
    for mask, (row, column, high, wide) in zip(
        masks, random.integers(2, 8, (patients, 4)), strict=True
    ):
        mask[row : row + high + 2, column : column + wide + 2] = 1
        mask[row : row + 2, column : column + 2] = 2
    masks[random.random(masks.shape) < 0.1] = 2  # so that no two patients have the same
    images = 60 * masks[:, None] + random.normal(60, 12, (patients, 1, 16, 16)).clip(0, 255)
    people = [f"p{number}" for number in range(patients)]
    labels = {"background": 0, "organ": 1, "lesion": 2}
    return from_arrays(folder, images, masks, people, modalities=("T1",), labels=labels)


class Person:
    """Types commands, and keeps count of them."""

    def __init__(self) -> None:
        self.typed: list[tuple[object, ...]] = []
        self.services: list[subprocess.Popen[str]] = []

    def types(self, *words: object, answer: str = "") -> str:
        self.typed.append(words)
        return asyndgan(*words, answer=answer)

    def starts(self, *words: object) -> subprocess.Popen[str]:
        self.typed.append(words)
        process = subprocess.Popen(
            [COMMAND, *map(str, words)], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.services.append(process)
        return process

    def opens(self, browser, *words: object):
        """A tab of a console's page, as wide as a phone."""
        url = self.starts(*words, "--no-browser").stdout.readline().strip()
        tab = browser.new_page(viewport={"width": 390, "height": 900})
        tab.set_default_timeout(120_000)
        tab.goto(url)
        return tab


@pytest.fixture
def person():
    made = Person()
    yield made
    for service in reversed(made.services):
        service.terminate()
    for service in made.services:
        service.communicate(timeout=60)


def until_it_has(tab, pattern: str) -> None:
    """Looks at a page until it holds this; to show it anew each time would take a core."""
    until(lambda: re.search(pattern, tab.context.request.get(tab.url).text()), MOST_S)
    tab.reload()
    for summary in tab.locator("details:has(form):not([open]) > summary").all():
        summary.click()


def shows(tab, text: str) -> None:
    until_it_has(tab, re.escape(text))
    assert text in tab.text_content("body")


def press(tab, name: str, **fields: str) -> None:
    """Fills a form in and presses its button, when the page has one."""
    until_it_has(tab, rf">\s*{re.escape(name)}\s*</button>")
    form = tab.locator("form").filter(has=tab.get_by_role("button", name=name, exact=True))
    for field, text in fields.items():
        form.locator(f"[name={field}]").fill(text)
    form.get_by_role("button").click()
    assert tab.get_by_role("status").is_visible(), tab.text_content("header")


def allow(policy: Path, **values: object) -> None:
    """What a steward edits."""
    text = policy.read_text()
    for key, value in values.items():
        text, times = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
        assert times == 1, key
    policy.write_text(text)


def test_a_federation_is_made_trains_is_audited_and_releases_a_set_by_pages(
    browser, person, tiny, tmp_path
):
    data = {name: hospital(tmp_path / "data" / name, seed, 100) for name, seed in SITES.items()}
    public = hospital(tmp_path / "public", 9, 40)
    recipe = tiny(
        "masks.source=given", "masks.release=false", "training.steps=2", "training.hold_out=0.5",
        "generator.width=32",  # of 5 MB: longer than any message of the training
    )  # fmt: skip
    (tmp_path / "tiny.toml").write_text(recipe.to_toml())
    folder = tmp_path / "hospitals"

    person.types("federation", "init", folder, "--host", "localhost", "--port", free_port())
    person.starts("federation", "start", folder)
    coordinator = person.opens(browser, "federation", "console", folder)
    for name in SITES:
        said = person.types("site", "request", tmp_path / name)
        (number,) = re.findall(r"safety number: ([\d ]+)", said)
        request = tmp_path / name / f"{name}.csr"
        press(coordinator, "Add", request=str(request), number=number)
        kit = folder / "kits" / f"{name}.json"
        person.types("site", "init", tmp_path / name, kit, "--data", data[name], answer="y\n")
        allow(tmp_path / name / "policy.toml", audits=1, known_start="true")
        person.starts("site", "start", tmp_path / name)
    stewards = {name: person.opens(browser, "site", "console", tmp_path / name) for name in SITES}
    for tab in (coordinator, *stewards.values()):
        assert barriers(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390

    def submit(run: str, keys: str = "") -> None:
        file = str(tmp_path / "tiny.toml")
        press(coordinator, "Submit", recipe=file, run=run, masks=str(public), keys=keys)

    # A steward refuses, and the coordinator sees who, and by which key.
    submit("one", "discriminator.width=8")
    press(stewards["north"], "Refuse one")
    shows(coordinator, "allows.refused")
    assert "north" in coordinator.locator("section[aria-labelledby=run-one] .said").text_content()

    # Another recipe is approved: at one site with those like it, at the other alone.
    submit("two")
    press(stewards["north"], "Approve runs such as two")
    press(stewards["south"], "Approve two")
    press(coordinator, "Confirm two")

    # No set is released before its sites have audited it.
    press(coordinator, "Release a set of two", creator="Ward 3", contact="ask@ward3.example")
    shows(coordinator, "two may not be released: no audit covers north (T1), south (T1).")
    press(coordinator, "Have its sites audit two")
    shows(coordinator, "release: permitted")
    for name in SITES:
        found = read_audit(folder / "runs" / "two" / "audits" / name)
        own = read_audit(tmp_path / name / "runs" / "two" / "audit")
        assert found.confirmed == {name: True} and len(found.audit.attacks) == 5
        assert (found.masks, found.generator) == (own.masks, own.generator)
        lines = ledger.read(tmp_path / name / "records" / "ledger.jsonl")
        assert [line.kind for line in lines].count("audited") == 1
    press(coordinator, "Release a set of two", creator="Ward 3", contact="ask@ward3.example")
    shows(coordinator, "120 cases in")  # three of each mask
    released = folder / "released" / "two"
    about = json.loads((released / "croissant.json").read_text())
    assert about["rai:hasSyntheticData"] and PUBLISHER["licence"] in json.dumps(about)
    assert len([*(released / "imagesTr").iterdir()]) == 120
    assert len(person.typed) <= MOST, person.typed
