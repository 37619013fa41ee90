"""The process that runs readers which a file can make slow, greedy or dead; it is replaced when it is lost.

In: a function and its arguments. Out: what the function returns or raises, or InputError where it broke the
limits on time or memory, or killed the process. There is one for each process that asks, started with the
first call and kept, because importing music21 takes a while.
"""

import contextlib
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import ParamSpec, TypeVar

from loky import ProcessPoolExecutor

from midigen_jax.errors import InputError

LIMIT_SECONDS = 60.0
LIMIT_BYTES = 2 << 30

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_pools: dict[int, ProcessPoolExecutor] = {}
"""By the id of the process that asks: one that was forked must not share its parent's pipes."""


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`function(*args, **kwargs)` in the other process; arguments and result are pickled on their way.

    Raises what the function raises, and InputError for what takes more than `LIMIT_SECONDS` or `LIMIT_BYTES`,
    or ends the process.
    """
    with _lock:
        try:
            return _try(function, *args, **kwargs)
        except BrokenExecutor:
            pass  # it may have died before, or by another's hand: no fault of this file's
        try:
            return _try(function, *args, **kwargs)
        except BrokenExecutor:
            raise InputError("what reads it dies of it; leave it out") from None


def close() -> None:
    """End the process, if there is one; the next call starts another."""
    pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.shutdown(kill_workers=True)
        del pool
        gc.collect()  # its semaphores go with it, which point to each other, and else would be told as leaks


def begin_worker(parent: int) -> None:
    """Make this process, which reads files for the process `parent`, end with that, however that ends."""
    # A Ctrl-C reaches every process of the terminal: it is the parent's to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _try(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    pool = _pools.get(os.getpid())
    if pool is None:
        # numpy's threads reserve memory that is never used, but would count.
        env = {"OPENBLAS_NUM_THREADS": "1"}
        pool = ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(), LIMIT_BYTES), env=env)
        _pools[os.getpid()] = pool
    try:
        return pool.submit(function, *args, **kwargs).result(LIMIT_SECONDS)
    except TimeoutError:
        close()
        raise InputError(
            f"takes longer than {LIMIT_SECONDS:g} s to read; leave it out or simplify it"
        ) from None
    except MemoryError:
        close()
        limit = f"more than {LIMIT_BYTES >> 20} MiB"
        raise InputError(f"takes {limit} to read; leave it out or simplify it") from None
    except (BrokenExecutor, KeyboardInterrupt):
        close()
        raise


def _begin(parent: int, limit: int) -> None:
    begin_worker(parent)
    # What parsers print and warn of must not stand between our lines.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    warnings.simplefilter("ignore")
    # There is no such module on Windows, and no such limit on some systems.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _end_with(parent: int) -> None:
    """A parent that is killed tells no one; whose parent is gone is given another."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
