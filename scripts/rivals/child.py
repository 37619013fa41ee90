"""A side of a benchmark in a process of its own: it works only when a line of standard input asks it to.

    python -m rivals.child MODULE JOB    (JOB: the fields of the module's `Job`, as JSON)

MODULE has `Job`, `CANDIDATES`, its settings with the default first, and `build(job, settings)`.

Answers are lines of JSON. The first says that the side is warm, with its settings, what a call does and how
long the first call took, compiling included, or which package is missing. Each later one answers a line of
input, over a round of whole calls: calls a second, and how many cores were busy.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rivals.side import Job, Settings, Side

_TUNING_ROUNDS = 3


def main() -> None:
    """Warm up, then answer until nobody asks."""
    name, fields = sys.argv[1], json.loads(sys.argv[2])
    # Before any library counts the cores that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-fields["threads"] :])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then closes the input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(fields: dict[str, Any]) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        answer({"missing": error.name})
        return
    job = module.Job(**fields)
    settings, side, first_call = fastest(module, job)
    answer({"settings": settings, "amounts": side.amounts, "first_call": first_call})
    for _ in sys.stdin:
        calls, cores = rate(side.call, job.seconds)
        answer({"calls_per_s": calls, "cores": cores})


def fastest(module: ModuleType, job: Job) -> tuple[Settings, Side, float]:
    """The side under its best settings, warm: (settings, side, seconds of its first call).

    Without `job.tune` it is the first candidate. With it they take turns, and the fastest round decides:
    what else the machine does only slows a round.
    """
    warm = [_warm(module, job, settings) for settings in module.CANDIDATES[: None if job.tune else 1]]
    if len(warm) == 1:
        return warm[0]
    best = [0.0] * len(warm)
    for _ in range(_TUNING_ROUNDS):
        for number, (_, side, _) in enumerate(warm):
            best[number] = max(best[number], rate(side.call, job.seconds)[0])
    for calls, (settings, side, _) in zip(best, warm, strict=True):
        amount = next(iter(side.amounts))
        print(f"{job.side} {settings}: {calls * side.amounts[amount]:.0f} {amount}/s", file=sys.stderr)
    return warm[best.index(max(best))]


def _warm(module: ModuleType, job: Job, settings: Settings) -> tuple[Settings, Side, float]:
    side = module.build(job, settings)
    start = time.perf_counter()
    side.call()
    first_call = time.perf_counter() - start
    side.call()
    return settings, side, first_call


def rate(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Calls a second, over as many as take `seconds` or a little more, and the cores that were busy."""
    calls, start, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        call()
        calls += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return calls / passed, (time.process_time() - cpu) / passed


if __name__ == "__main__":
    main()
