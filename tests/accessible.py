"""What axe finds in a page that keeps somebody out of it."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def barriers(page: Page) -> list[str]:
    """Each serious fault by its rule of axe and the first element that has it."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['nodes'][0]['html'][:200]} ({rule['nodes'][0]['failureSummary']})"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]
