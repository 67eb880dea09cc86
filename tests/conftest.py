"""Fixtures that several test files share."""

import json
import os
import shutil
from pathlib import Path

import evidence
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


# --- the ledger: what the tests of numbered results measured ------------------------------------

EVIDENCE = Path(__file__).resolve().parents[1] / "ledger" / "evidence.json"


def pytest_addoption(parser):
    parser.addoption(
        "--write-evidence", action="store_true", help=f"renew {EVIDENCE.name} from the marked tests"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Hand what a marked test measured to the report, which travels to the main process."""
    evidence.current.clear()
    result = yield
    labels = [label for marker in item.iter_markers("ledger") for label in marker.args]
    if labels:
        if not evidence.current:
            pytest.fail("a test marked for the ledger measures with tests/evidence.py", False)
        found = evidence.summary(evidence.current)
        item.user_properties.append(("ledger", [labels, found]))
    return result


class Ledger:
    """Collects the measurements in the main process and compares them with the stored ones."""

    def __init__(self, config):
        self._config, self.found, self._messages = config, {}, []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            test = report.nodeid.split("[")[0]
            for name, value in report.user_properties:
                if name == "ledger":
                    labels, new = value
                    for label in labels:
                        self._merge(self.found.setdefault(label, {}), test, new)

    @staticmethod
    def _merge(tests, test, new):
        """Parametrised cases of one test are one entry."""
        old = tests.setdefault(test, new)
        if old is not new:
            tolerances = dict.fromkeys(f"{old['tolerance']}; {new['tolerance']}".split("; "))
            tests[test] = {
                "instances": old["instances"] + new["instances"],
                "tolerance": "; ".join(sorted(tolerances)),
                "worst": max(old["worst"], new["worst"]),
            }

    def pytest_sessionfinish(self, session):
        if session.testsfailed or not self.found:
            return
        if self._config.getoption("--write-evidence"):
            ordered = {
                label: dict(sorted(self.found[label].items())) for label in sorted(self.found)
            }
            EVIDENCE.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
            return
        if not EVIDENCE.exists():
            self._messages.append("it does not exist")
        stored = json.loads(EVIDENCE.read_text(encoding="utf-8")) if EVIDENCE.exists() else {}
        for label, tests in self.found.items():
            for test, new in tests.items():
                old = stored.get(label, {}).get(test)
                if old is None:
                    self._messages.append(f"{label}: {test} is not in it")
                elif not 0.5 <= new["instances"] / max(old["instances"], 1) <= 2:
                    counts = f"{new['instances']} instances, {old['instances']} stored"
                    self._messages.append(f"{label}: {test} tried {counts}")
        if self._messages:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if self._messages:
            terminalreporter.section("ledger/evidence.json is out of date: run `make ledger`")
            for message in self._messages:
                terminalreporter.line(message)


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ledger(config), "ledger")
