"""One model, several listeners: their pieces are written side by side, as rows of one batch.

In: what each listener asks for. Out: to each, the events of a piece as they are written. A thread owns the
batch. Who asks gets a row that is free: the prompt is read and the first events are written in a row by
itself, which then takes its place in the batch, and every call writes some events more of all rows. So nobody
waits for somebody else's piece to end (continuous batching: Yu et al. 2022, "Orca"). Rows do not see
each other, so a piece is the one that `generate` writes with the same settings and seed.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import SampleConfig
from midigen_jax.errors import InputError
from midigen_jax.music.piece import Piece
from midigen_jax.progress import hidden
from midigen_jax.sample.decode import (
    Decoded,
    Prompt,
    Settings,
    decode,
    prompt_of,
    repeated,
    resume,
    tokens_of,
)
from midigen_jax.sample.generate import STREAMED, Task, plan, settings_of
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import Tokens

ROWS = 8  # that write at once: on two cores, eight cost twice the time of one
MOST_WAITING = 32
MOST_PROMPT = 8192  # events

_PROMPT = 512  # a prompt is filled up to a multiple: a chorale is about as long, and is read in 0.1 s
T = TypeVar("T")


class Told(NamedTuple):
    """News of a piece."""

    tokens: Tokens  # (E, S): written since the last time
    waiting: int = 0  # all rows are taken: so many listeners come before this one, and itself
    over: bool = False  # the last news
    cut: bool = False  # the desk has stopped in the middle of the piece


@dataclass(eq=False)
class Listener:
    """Somebody for whom a piece is written."""

    task: Task
    prompt: Prompt
    settings: Settings  # of one row
    left: int  # events that may still be written
    tell: Callable[[Told], None]
    waiting: int = 0
    gone: bool = field(default=False, init=False)

    def leave(self) -> None:
        """Hear no more: the row is somebody else's from the next call on."""
        self.gone = True


class Desk:
    """A model and the thread in which it writes; a context manager, which ends it.

    To make one compiles what every piece needs; what reads a prompt is compiled in the background, or when
    the first longer one comes.
    """

    def __init__(self, loaded: LoadedModel, rows: int = ROWS):
        self.loaded = loaded
        self._programs: dict[int, Any] = {}  # that read a prompt, by its length, and begin to write
        self._compiling = threading.Lock()
        self._seats: list[Listener | None] = [None] * rows
        self._waiting: deque[Listener] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        self._first = first = self._listener(SampleConfig(), {}, None, lambda told: None)
        own, _ = self._begins_with(1)(loaded.params, first.prompt, first.settings)
        self._projections = own.projections
        # The vocabulary's rules and its projections are the same in all rows, and stay apart from them.
        nobody = own._replace(projections=None, done_B=jnp.ones(1, bool))
        alone = nobody, _of_rows(first.settings)
        # Once through all that a listener's coming needs, so that it is compiled.
        self._rows = _with_row(jax.tree.map(jnp.copy, repeated(alone, rows)), jnp.int32(0), alone)
        static: dict[str, Any] = {"events": STREAMED, "flags": first.task.flags}
        self._resume = resume.lower(loaded.network, loaded.params, *self._batch(), **static).compile()
        self._thread = threading.Thread(target=self._run, name="midigen-desk", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    @property
    def taken(self) -> int:
        """How many rows write for somebody."""
        with self._changed:
            return sum(seat is not None for seat in self._seats)

    def prepare(self) -> None:
        """Compile what reads prompts of usual length, if it is not."""
        self._begins_with(_PROMPT)

    def write(
        self,
        config: SampleConfig,
        temperature: Mapping[str, float],
        prompt: Piece | None,
        tell: Callable[[Told], None],
    ) -> Listener:
        """Have piece 0 of `generate` with this config and prompt written, with a temperature for each stream.

        `tell` is called in the desk's thread, and must not wait. Raises InputError as `generate` does, for a
        prompt that is too long, where very many wait, and after the end of the desk.
        """
        listener = self._listener(config, temperature, prompt, tell)
        self._begins_with(listener.prompt.mask_BT.shape[1])  # compiled here, so that nobody else waits
        with self._changed:
            if not self._is_open:
                raise InputError("the model has stopped writing; start `midigen play` again")
            if len(self._line()) >= MOST_WAITING:
                raise InputError(f"{MOST_WAITING} pieces are waiting to be written; try again in a minute")
            self._waiting.append(listener)
            self._changed.notify()
        return listener

    def _listener(
        self,
        config: SampleConfig,
        temperature: Mapping[str, float],
        prompt: Piece | None,
        tell: Callable[[Told], None],
    ) -> Listener:
        if prompt is not None and len(prompt.notes) > MOST_PROMPT:
            raise InputError(
                f"the prompt has {len(prompt.notes):,} notes; give one of {MOST_PROMPT:,} or fewer, or go on "
                "from an earlier point of it"
            )
        with hidden():
            task = plan(self.loaded, config, prompt)
        # One program for all, whatever filters they ask for.
        task = task._replace(flags=task.flags._replace(filters=True))
        if len(task.prompt) > MOST_PROMPT:
            raise InputError(
                f"the prompt has {len(task.prompt):,} events; give one of {MOST_PROMPT:,} or fewer, or go on "
                "from an earlier point of it"
            )
        settings = settings_of(task, config, np.zeros(1, int))
        params = settings.params | {
            name: settings.params[name]._replace(temperature_B=jnp.full(1, value, jnp.float32))
            for name, value in temperature.items()
        }
        read = prompt_of(task.network.vocabulary, task.prompt, _PROMPT)
        return Listener(task, read, settings._replace(params=params), config.events, tell)

    def _begins_with(self, times: int) -> Any:
        """The program that reads a prompt of so many events and writes the first ones."""
        if times not in self._programs:
            with self._compiling:  # who asks for the same one waits for it
                if times not in self._programs:
                    self._programs[times] = self._compiled(times)
        return self._programs[times]

    def _compiled(self, times: int) -> Any:
        task, settings = self._first.task, self._first.settings
        ids: Any = jax.ShapeDtypeStruct((1, times), jnp.int32)
        mask: Any = jax.ShapeDtypeStruct((1, times), jnp.bool_)
        like = Prompt({name: ids for name, _ in task.network.vocabulary.streams}, mask)
        lowered = decode.lower(task.network, task.params, like, settings, events=STREAMED, flags=task.flags)
        return lowered.compile()

    def _batch(self) -> tuple[Any, Settings]:
        """State and settings of all rows, as the loop takes them."""
        state, settings = self._rows
        return state._replace(projections=self._projections), self._with_rules(settings)

    def _with_rules(self, settings: Settings) -> Settings:
        rules = self._first.settings
        return settings._replace(constraints=rules.constraints, limits=rules.limits)

    def _run(self) -> None:
        try:
            while self._somebody_is_there():
                self._fill_seats()
                self._write()
        finally:
            with self._changed:
                self._is_open = False
                for one in [*self._seats, *self._waiting]:
                    if one is not None:
                        self._tell(one, None, over=True, cut=True)

    def _somebody_is_there(self) -> bool:
        """Waits for somebody; False where the desk is to end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open or self._waiting or any(self._seats))
            return self._is_open

    def _fill_seats(self) -> None:
        """Rows of those who are gone are free; who has waited longest takes one, and the others are told."""
        for row, seat in enumerate(self._seats):
            if seat is not None and seat.gone:
                self._leave(row)
            while self._seats[row] is None and (listener := self._next()):
                self._take(row, listener)
        with self._changed:
            waiting = [*self._line()]
        for place, one in enumerate(waiting, 1):
            if one.waiting != place:
                one.waiting = place
                self._tell(one, None, waiting=place)

    def _next(self) -> Listener | None:
        with self._changed:
            return line.popleft() if (line := self._line()) else None

    def _line(self) -> deque[Listener]:
        """Those who wait, without who is gone; to be asked for under the lock."""
        self._waiting = deque(one for one in self._waiting if not one.gone)
        return self._waiting

    def _leave(self, row: int) -> None:
        with self._changed:
            self._seats[row] = None

    def _take(self, row: int, listener: Listener) -> None:
        """Begin a piece by itself, and give it the row if there is more to write."""
        settings = self._with_rules(listener.settings)
        program = self._begins_with(listener.prompt.mask_BT.shape[1])
        with self._changed:  # before it is written, so that a failure is told
            self._seats[row] = listener
        state, decoded = program(self.loaded.params, listener.prompt, settings)
        self._hand(row, jax.device_get(decoded), 0, bool(state.done_B[0]))
        alone = state._replace(projections=None), _of_rows(settings)
        self._rows = _with_row(self._rows, jnp.int32(row), alone)

    def _write(self) -> None:
        """Some events more of all rows."""
        if not self.taken:
            return
        state, settings = self._batch()
        state, decoded = self._resume(self.loaded.params, state, settings)
        self._projections = state.projections
        self._rows = state._replace(projections=None), self._rows[1]
        decoded, done_B = jax.device_get((decoded, state.done_B))
        for row, listener in enumerate(self._seats):
            if listener is not None:
                self._hand(row, decoded, row, bool(done_B[row]))

    def _hand(self, row: int, decoded: Decoded, place: int, is_done: bool) -> None:
        """Tell who has the row what is at this place of what a call wrote."""
        listener = self._seats[row]
        assert listener is not None
        tokens = tokens_of(self.loaded.metadata.vocabulary, decoded, place)[: listener.left]
        listener.left -= len(tokens)
        over = is_done or listener.left == 0
        if over:
            self._leave(row)
        self._tell(listener, tokens, over=over)

    def _tell(self, listener: Listener, tokens: Tokens | None, **news: Any) -> None:
        nothing = np.zeros((0, len(self.loaded.metadata.vocabulary.streams)), np.int32)
        if not listener.gone:
            listener.tell(Told(nothing if tokens is None else tokens, **news))


def _of_rows(settings: Settings) -> Settings:
    """Without what is the same in all rows, and no array (B, …)."""
    return settings._replace(constraints=None, limits=None)


@partial(jax.jit, donate_argnames="rows")
def _with_row(rows: T, row: Array, one: T) -> T:
    """Arrays (B, …) of all rows, with that row in its place which is alone in arrays (1, …)."""
    return jax.tree.map(
        lambda all_B, own_1: lax.dynamic_update_index_in_dim(all_B, own_1[0], row, axis=0), rows, one
    )
