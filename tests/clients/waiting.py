"""Awaiting conditions instead of sleeping."""

import time


def await_that(description, condition, seconds=60):
    """Returns the first true value of `condition()`; says what it last saw if
    there is none within the limit. An exception counts as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen = condition()
        except Exception as error:  # a server that is starting refuses and resets
            seen = None
            last = f"{type(error).__name__}: {error}"
        else:
            last = repr(seen)
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {description}; last: {last}")
        time.sleep(0.05)
