"""What commands print on standard error."""


def messages(stderr: str) -> list[str]:
    """Return the lines without those that announce long work, which appear on a slow machine."""
    return [line for line in stderr.splitlines() if not line.endswith(" ...")]
