"""Python's search for garbage, left out where much is there that stays: it would look at it again and again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search_for_garbage() -> Iterator[None]:
    """What is made here is kept, so there is no garbage to be found in it, now or later."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def kept_out_of_searches() -> Iterator[None]:
    """What is there already is not looked at: a fork that looked would copy all of it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
