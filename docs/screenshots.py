"""Makes the pictures of the steward's and the coordinator's page: `python docs/screenshots.py`.

Needs Chromium. It draws phantoms and trains a minute, in a folder that is removed.
"""

import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from playwright.sync_api import sync_playwright

from asyndgan.cli.site import first_policy
from asyndgan.demo.phantoms import DEFAULT_SITES, write_phantoms
from asyndgan.engines.flare.localhost import federation_here
from asyndgan.engines.flare.requests import Request, keep
from asyndgan.engines.flare.service import example
from asyndgan.reports.coordinator import CoordinatorPage
from asyndgan.reports.local import LocalServer
from asyndgan.reports.steward import StewardPage
from asyndgan.runs import load_recipe
from asyndgan.runs.order import Order
from asyndgan.runs.train import train

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = {"width": 1000, "height": 1500}
SMALL = ("training.steps=60", "training.sample_every=20", "masks.source=own", "masks.release=true")


@contextmanager
def pages(folder: Path) -> Iterator[dict[str, LocalServer]]:
    """The pages of a federation in which one run is asked for and one was trained, by name."""
    sites = DEFAULT_SITES[:2]
    write_phantoms(folder / "data", size=64, sites=sites, patients_scale=0.3)
    data = {site.name: folder / "data" / site.name for site in sites}
    federation = federation_here(Path("hospitals"), *(folder / name for name in data), port=8002)
    name, kit = sites[0].name, folder / sites[0].name
    (kit / "site.toml").write_text(example(data[name]))
    (kit / "policy.toml").write_text(first_policy(name, "ask").to_toml())
    asked = load_recipe("default", ["training.steps=1500", "generator.width=32"])
    keep(kit, Request(run="first", recipe=asked.to_toml(), submitter="Ward 3", refused=""))
    done = load_recipe("demo", SMALL)
    refused = Order.submit(federation, "wide", done, ())
    why = f"{name} refuses the run. site {name}: its policy refuses it (allows.refused)."
    refused.say("failed", why)
    trial = Order.submit(federation, "trial", done, ())
    train(done, data, folder / "run")
    shutil.copytree(folder / "run", trial.folder.path, dirs_exist_ok=True)
    with StewardPage(kit) as steward, CoordinatorPage(federation) as coordinator:
        yield {"steward": steward, "coordinator": coordinator}


def main() -> None:
    """Writes the pictures, light and dark."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with TemporaryDirectory() as folder, chdir(folder), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        with pages(Path(folder)) as served:
            for name, page in served.items():
                Thread(target=page.serve_forever, daemon=True).start()
                for scheme in ("light", "dark"):
                    tab = browser.new_page(viewport=SIZE, color_scheme=scheme)
                    tab.goto(page.url)
                    tab.screenshot(path=IMAGES / f"{name}-{scheme}.png")
                page.shutdown()
        browser.close()


if __name__ == "__main__":
    main()
