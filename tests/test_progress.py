"""Progress: a bar on a terminal, plain lines elsewhere."""

import io

import pytest

from midigen_jax import progress
from midigen_jax.progress import Board, Progress, hidden


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("training", 10, "steps", file=log) as work:
        for step in range(10):
            clock.now += 4.0
            work.advance(note=f"loss {step}")
    assert log.getvalue().splitlines() == [
        "training: 3/10 steps, 0.25 steps/s, 28 s left, loss 2",
        "training: 6/10 steps, 0.25 steps/s, 16 s left, loss 5",
        "training: 9/10 steps, 0.25 steps/s, 4 s left, loss 8",
        "training: 10/10 steps, 0.25 steps/s, 40 s, loss 9",
    ]


def test_resumed_work_counts_what_was_done_but_not_in_its_rate(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("reading", 100, "files", done=90, file=log) as work:
        work.advance(1)
        clock.now += 10.0
        work.advance(5)
    assert log.getvalue().splitlines()[0] == "reading: 96/100 files, 0.60 files/s, 8 s left"


def test_what_is_compiled_before_the_first_step_is_not_in_the_time_left(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("training", 160, "steps", file=log) as work:
        clock.now += 120.0
        work.advance(1)
        clock.now += 20.0
        work.advance(10)
    assert log.getvalue().splitlines()[:2] == [
        "training: 1/160 steps, 0.01 steps/s, 120 s",
        "training: 11/160 steps, 0.08 steps/s, 298 s left",
    ]


def test_an_interrupted_run_says_how_far_it_came() -> None:
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("training", 10, "steps", file=log) as work:  # noqa: PT012
        work.advance(4)
        raise KeyboardInterrupt
    assert log.getvalue().startswith("training: 4/10 steps")


def test_nothing_to_do_is_no_fault() -> None:
    log = io.StringIO()
    with Progress("reading", 0, "files", file=log):
        pass
    assert log.getvalue().startswith("reading: 0/0 files")


def test_a_terminal_gets_a_bar_with_the_note() -> None:
    terminal = Terminal()
    with Progress("training", 3, "steps", done=1, file=terminal) as work:
        work.advance(2, note="loss 1.5")
    last = terminal.getvalue().split("\r")[-1]
    assert "training: 100%" in last
    assert "3/3" in last
    assert "loss 1.5" in last


class Gone(io.StringIO):
    """A pipe, or a terminal, that nobody reads any more."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("file", [Gone(False), Gone(True), None], ids=["pipe", "terminal", "closed"])
def test_work_goes_on_where_nobody_reads_how_it_goes(
    file: Gone | None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", file)
    with Progress("training", 3, "steps") as work, Board(["one"]) as board:
        for _ in range(3):
            clock.now += 20.0
            work.advance(note="loss")
            board.show("one", "goes on")
    assert work._done == 3


def test_work_that_is_a_part_of_other_work_says_nothing():
    file = io.StringIO()
    with hidden(), Progress("inner", 2, "steps", file=file) as inner:
        inner.advance(2)
    assert file.getvalue() == ""
    with Progress("outer", 1, "steps", file=file) as outer:
        outer.advance()
    assert "outer" in file.getvalue()
