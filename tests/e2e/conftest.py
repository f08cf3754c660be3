"""What end-to-end tests share."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from asyndgan.judging import compare
from small import ask_little

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def in_little_time() -> Iterator[None]:
    """An evaluation draws no examples, which are half of its time; unit tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        ask_little(patch)
        patch.setattr(compare, "plot_examples", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A browser without a window; tests are skipped where there is none, except on CI."""
    from playwright.sync_api import sync_playwright  # slow, and few tests need it

    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=SWITCHES)
        yield opened
        opened.close()
