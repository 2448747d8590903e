"""Common setup: Ctrl-C reaches the commands under test, and timeouts are scaled on a busy machine."""

import signal
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
