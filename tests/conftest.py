"""Fixtures that several test files share."""

import os
import shutil

import pytest

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


NAME = os.environ.get("CHROMIUM", "chromium")


def pytest_runtest_setup(item):
    """Leave out the browser tests where there is no browser, in one line; in CI that fails."""
    if item.get_closest_marker("browser") and shutil.which(NAME) is None:
        message = f"browser tests left out: no {NAME} here (set CHROMIUM to its path)"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, found on the path or named by the variable CHROMIUM."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which(NAME), args=CHROMIUM_ARGUMENTS
        )
        yield chromium
        chromium.close()
