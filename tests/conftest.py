"""What holds for every test: Ctrl-C reaches the commands under test, and a busy machine has more time."""

import signal
from typing import Any

import pytest

from tests.patience import patience, time_scale

# A shell that starts a job in the background has it ignore SIGINT, and every process that the job starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Print by how much timeouts are scaled."""
    return f"timeouts: at least {time_scale():.1f} times those of a quiet machine"


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> object:
    """Scale the timeout of a test as it begins; the plugin itself sets the timer."""
    plugin = item.config.pluginmanager.getplugin("timeout")
    return plugin.pytest_timeout_set_timer(item, settings._replace(timeout=patience(settings.timeout)))
