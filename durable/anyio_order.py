"""Order."""


def install() -> None:
    """Being written."""
