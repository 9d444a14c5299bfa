"""A headless browser of the system, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def launch_browser() -> Iterator[Browser]:
    """Start a headless browser; skip the test if the system has none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as playwright:
        try:
            # Chromium's sandbox refuses to run as root, as containers do.
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no browser: {found} does not start ({error.message.splitlines()[0]})")
        yield browser
        browser.close()
