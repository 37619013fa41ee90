"""How fast a model writes events on this machine, and how near that is to its matrix products alone.

In: a network with weights, or somebody else's step; sizes of a batch, rivals or none. Out: rows. Every figure
is of warm, blocked rounds in which all that is measured takes turns; compiling is a row of its own.

`<end>` is never drawn, so that all rows have the same work to the end.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.sample.decode import PADDED, Decoded, Prompt
from midigen_jax.sample.generate import STREAMED
from midigen_jax.study.benchmark import elapsed
from midigen_jax.study.step_model import StateSize, StepLoop, StepModel, make_loop, state_size
from midigen_jax.study.subject import Subject, pitch_entropy, untold
from midigen_jax.study.turns import PROMPT, Floor, Loop, Prefill, prompt_of, start_prompt
from midigen_jax.vocab import Tokens, ticks_of, to_tokens

BARS = 8  # of the prompt after which the first note is waited for

_ROUNDS = 5
_STEPS = 100  # that are timed one by one, in a round
_FIRST = 20  # first notes that are timed, in a round
_CALLS = (20, 200)  # calls of a stream that are timed in a round, at the least and at the most
_LISTENED = 64  # pieces: more are not streamed at once
_LONGEST = 4096  # events of a prompt
_PLAIN_BAR = 2.0  # seconds of a bar of 4/4 at 120 quarters a minute, where a model knows of no bars


class Measured(NamedTuple):
    """What was found for one size of batch; lists have a value for each round."""

    batch: int
    events: int  # a row, in one call
    compile_seconds: dict[str, float]  # of each program
    seconds: dict[str, list[float]]  # a call of each program takes
    calls: dict[str, list[np.ndarray]]  # seconds of single calls: of `step`s, and of a `stream`'s
    first: dict[str, list[float]]  # seconds to the first note: `warm`, after a `prompt`; of one piece alone
    prompt: int  # events of eight bars
    padded: int  # what the prompt is filled up to a multiple of
    music: tuple[float | None, float | None]  # seconds, and notes, of an event
    state: StateSize | None
    loop: str = "jitted"
    entropy: Mapping[str, float] = {}  # nats of the next pitch, of the weights by name
    rivals: Mapping[str, list[float]] = {}  # events/s


def bench_decode(
    subject: Subject,
    batch: int,
    events: int,
    rivals: Mapping[str, Callable[[], float]] | None = None,
    seconds: float = 0.5,
    rounds: int = _ROUNDS,
) -> Measured:
    """Write `events` events on each of `batch` rows a call, in rounds of `seconds` or of one call.

    `rivals` work for a round when they are called, and say how many events a second they wrote.
    """
    network, params = subject.network, subject.params
    plain = Loop(network, params, batch, events)
    filtered = Loop(network, params, batch, events, filtered=True)
    written = plain()
    prefill = Prefill(network, params, prompt_of(written, PROMPT))
    compiled = {
        "loop": plain.compile_seconds,
        "filters": filtered.compile_seconds,
        "prefill": prefill.compile_seconds,
    }
    programs: dict[str, Callable[[], Any]] = {"loop": plain, "filters": filtered, "prefill": prefill}
    programs["floor"] = Floor(network, params, batch, events)
    entropy = {"": pitch_entropy(network, params, written)}
    if subject.flat is not None:
        programs["filters.flat"] = filtered.other(subject.flat)
        entropy["flat"] = pitch_entropy(network, subject.flat, programs["filters.flat"]())
    if network.config.context.used:
        bare = untold(subject)
        programs["untold"] = Loop(bare.network, bare.params, batch, events)
    ticks = float(np.mean(ticks_of(network.vocabulary.tables, _tokens(network, written))))
    clock = network.vocabulary.clock
    prompt = min(_LONGEST, round(np.ceil(BARS * clock.bar(subject.meter) / max(ticks, 1e-6))))
    timed = _waits(subject, batch, prefill, prompt_of(written, prompt, PADDED), seconds)
    title = f"batch {batch}"
    found, calls, theirs = _take_turns(title, programs, timed, rivals or {}, seconds, rounds)
    music = clock.seconds(ticks, subject.tempo), _notes(subject, written)
    # A state's arrays are the same after any number of events: `resume` takes what it gives.
    state = StateSize(plain.state_bytes(), 0.0)
    first_notes = _medians(calls)
    return Measured(
        batch,
        events,
        compiled,
        found,
        calls,
        first_notes,
        prompt,
        PADDED,
        music,
        state,
        entropy=entropy,
        rivals=theirs,
    )


def _waits(
    subject: Subject, batch: int, prefill: Prefill, bars: Prompt, seconds: float
) -> dict[str, Callable[[], np.ndarray]]:
    """What is waited for, call by call: events of a stream, and of one piece single events and the first."""
    given = subject.network, subject.params
    timed: dict[str, Callable[[], np.ndarray]] = {}
    if batch <= _LISTENED:
        timed["stream"] = _calls(Loop(*given, batch, STREAMED), seconds)
    if batch == 1:
        timed["step"] = _calls(Loop(*given, 1, 1), 0, (_STEPS, _STEPS))
        same = bars.mask_BT.shape == (1, PROMPT)  # as that of the prompts which are read for their own sake
        after = prefill.other(bars) if same else Prefill(*given, bars)
        for name, first in (
            ("warm", Prefill(*given, start_prompt(subject.network.vocabulary, 1))),
            ("prompt", after),
        ):
            timed[name] = _calls(partial(_on_host, first), 0, (_FIRST, _FIRST))
    return timed


def bench_step(
    model: StepModel, batch: int, events: int, seconds: float = 0.5, rounds: int = _ROUNDS
) -> Measured:
    """As `bench_decode`, of somebody else's step: a call is a whole piece, of `events` events."""
    loop = make_loop(model, batch, events)
    _, written_BNS = loop.write(loop.begin(), events)
    compiled = {"loop": loop.compile_seconds} if loop.kind == "jitted" else {}
    flat_NS = np.asarray(written_BNS).reshape(-1, written_BNS.shape[-1])
    per_event, notes = (
        None if name not in model.about else float(np.mean(model.about[name](flat_NS)))
        for name in ("seconds", "notes")
    )
    reading, prompt_BTS = make_loop(model, batch, PROMPT + 1), _tiled(written_BNS, PROMPT)
    programs: dict[str, Callable[[], Any]] = {
        "loop": lambda: loop.write(loop.begin(), events),
        "prefill": lambda: reading.write(reading.read(reading.begin(), prompt_BTS), 1),
    }
    timed: dict[str, Callable[[], np.ndarray]] = {}
    if batch <= _LISTENED:
        timed["stream"] = _Stream(loop, events, seconds)
    prompt = 0
    if batch == 1:
        timed["warm"] = _calls(lambda: loop.write(loop.begin(), 1), 0, (_FIRST, _FIRST))
        if per_event is not None:
            prompt = min(_LONGEST, round(np.ceil(BARS * _PLAIN_BAR / max(per_event, 1e-6))))
            after, bars_BTS = make_loop(model, 1, prompt + 1), _tiled(written_BNS, prompt)
            timed["prompt"] = _calls(
                lambda: after.write(after.read(after.begin(), bars_BTS), 1), 0, (_FIRST, _FIRST)
            )
    found, calls, _ = _take_turns(f"batch {batch}", programs, timed, {}, seconds, rounds)
    first, music, state = _medians(calls), (per_event, notes), state_size(model, events)
    return Measured(batch, events, compiled, found, calls, first, prompt, 1, music, state, loop.kind)


def _take_turns(
    title: str,
    programs: Mapping[str, Callable[[], Any]],
    timed: Mapping[str, Callable[[], np.ndarray]],
    rivals: Mapping[str, Callable[[], float]],
    seconds: float,
    rounds: int,
) -> tuple[dict[str, list[float]], dict[str, list[np.ndarray]], dict[str, list[float]]]:
    """Round by round: seconds of a call of each program, of single calls, and what rivals say."""
    counts = {name: max(1, round(seconds / _warm_seconds(call))) for name, call in programs.items()}
    for call in timed.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in programs}
    calls: dict[str, list[np.ndarray]] = {name: [] for name in timed}
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    with Progress(title, rounds, "rounds") as progress:
        for number in range(rounds):
            # Back and forth, so that nobody always comes after the same one.
            for name in list(programs)[:: -1 if number % 2 else 1]:
                found[name].append(elapsed(programs[name], counts[name]) / counts[name])
            for name, call in timed.items():
                calls[name].append(call())
            for name, rival in rivals.items():
                theirs[name].append(rival())
            progress.advance()
    return found, calls, theirs


def _on_host(write: Callable[[], Decoded]) -> Decoded:
    """Ids where they can be played from."""
    return jax.device_get(write())


def _calls(
    call: Callable[[], Any], seconds: float, bounds: tuple[int, int] = _CALLS
) -> Callable[[], np.ndarray]:
    """Seconds of single calls: as many as take `seconds`, within bounds."""
    count = int(np.clip(round(seconds / _warm_seconds(call)), *bounds))
    return lambda: np.array([elapsed(call) for _ in range(count)])


class _Stream:
    """Seconds of the calls of a stream: pieces from their beginnings, a few events at a time."""

    def __init__(self, loop: StepLoop, events: int, seconds: float):
        self._loop, self._calls = loop, max(1, events // STREAMED)
        self._events = min(events, STREAMED)
        self._count = 1
        spent = self().mean()  # compiles
        spent = self().mean()
        self._count = int(np.clip(round(seconds / spent), *_CALLS))

    def __call__(self) -> np.ndarray:
        found: list[float] = []
        while len(found) < self._count:
            state = self._loop.begin()
            for _ in range(min(self._calls, self._count - len(found))):
                began = time.perf_counter()
                state, _ = self._loop.write(state, self._events)
                found.append(time.perf_counter() - began)
        # Of so many events as a call of a stream has, also where a piece has fewer.
        return np.array(found) * STREAMED / self._events


def _medians(calls: Mapping[str, list[np.ndarray]]) -> dict[str, list[float]]:
    """Those of first notes, round by round."""
    there = [name for name in ("warm", "prompt") if name in calls]
    return {name: [float(np.median(spent)) for spent in calls[name]] for name in there}


def _tiled(written_BNS: Any, events: int) -> np.ndarray:
    """So many events of those that were written, over and over if they are fewer."""
    ids_BNS = np.asarray(written_BNS)
    return np.tile(ids_BNS, (1, -(-events // ids_BNS.shape[1]), 1))[:, :events]


def _notes(subject: Subject, written: Decoded) -> float | None:
    """Pitches that are attacked in an event, on average; None where ids mean nothing."""
    if subject.origin == "fresh":
        return None
    tokens = _tokens(subject.network, written)
    attacks = 0.0
    for place, table in enumerate(subject.network.vocabulary.tables.values()):
        begins = (table.sounds & ~table.held[:, None]).sum(axis=1)
        attacks += float(begins[tokens[:, place]].mean())
    return attacks


def _tokens(network: Network, written: Decoded) -> Tokens:
    """(E, S) of all rows."""
    tokens = to_tokens(network.vocabulary, written.events)
    return tokens.reshape(-1, tokens.shape[-1])


def _warm_seconds(call: Callable[[], Any]) -> float:
    call()
    return elapsed(call)
