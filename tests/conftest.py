"""Common setup: Ctrl-C reaches the commands under test, and timeouts are scaled on a busy machine."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patience, time_scale

# Background jobs of a shell ignore SIGINT, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Report the scale of timeouts."""
    return f"timeouts: at least {time_scale():.1f} times those of an idle machine"


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> object:
    """Scale the timeout of a test before the plugin sets its timer."""
    plugin = item.config.pluginmanager.getplugin("timeout")
    return plugin.pytest_timeout_set_timer(item, settings._replace(timeout=patience(settings.timeout)))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a test whose name differs from process to process: parallel workers need the same names."""
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(f"name the cases with ids=, expected no address in the name of a test: {item.nodeid}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add the skipped tests and their reasons to the file that tests/stages.py prints at its end."""
    if path := os.environ.get("SKIPPED_TESTS"):
        with Path(path).open("a", encoding="utf-8") as file:
            for report in terminalreporter.stats.get("skipped", []):
                reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else "xfail"
                print(report.nodeid, " ".join(reason.split()), sep="\t", file=file)
