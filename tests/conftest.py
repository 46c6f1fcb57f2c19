"""What holds for the whole suite."""

import signal


def pytest_configure() -> None:
    """A shell without job control starts what runs in the background with ctrl-c ignored, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
