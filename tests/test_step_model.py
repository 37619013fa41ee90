"""Somebody else's step under the benchmark: one loop for all, and a Transformer that is one of them."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network, init_params
from midigen_jax.recipes import pooling_article
from midigen_jax.study import decode_rows, decoding, first_note
from midigen_jax.study.step_model import StateSize, StepModel, load_step_model, make_loop, state_size
from rivals import transformer
from tests.tiny import chord_vocabulary

SHAPE = transformer.Shape(23, 7, 6, 5, width=16, layers=2, feed_forward=20)


def counting(array):
    """A model whose next ids are one more than those it reads; its state is a number of each row."""

    def init(rows, events):
        return array.zeros((rows, 3), array.float32), array.full((rows, 1), 7, array.int32)

    def step(carry, ids_BS, key):
        return carry + ids_BS.astype(array.float32), ids_BS + 1

    return init, step, {"seconds": lambda ids_NS: ids_NS[:, 0] * 0 + 0.5, "parameters": 0}


@pytest.mark.parametrize(("array", "kind"), [(jnp, "jitted"), (np, "host")])
def test_ids_decide_which_loop_writes_and_both_write_the_same(array, kind):
    loop = make_loop(StepModel("counting", *counting(array)), rows=2, room=8)
    assert loop.kind == kind
    (carry, ids_BS), written_BNS = loop.write(loop.begin(), 5)
    assert np.asarray(written_BNS).tolist() == [[[8], [9], [10], [11], [12]]] * 2
    assert np.asarray(carry).tolist() == [[7 + 8 + 9 + 10 + 11] * 3] * 2
    # A prompt is read as it would have been written: its last event is the next to be read.
    read_carry, read_BS = loop.read(loop.begin(), np.asarray(written_BNS))
    np.testing.assert_array_equal(read_carry, carry)
    np.testing.assert_array_equal(read_BS, ids_BS)


def test_a_step_that_cannot_be_traced_is_written_by_python(capsys):
    def step(carry, ids_BS, key):
        return (carry, ids_BS + 1) if int(ids_BS[0, 0]) else (carry, ids_BS)

    init, *_ = counting(jnp)
    loop = make_loop(StepModel("eager", init, step), rows=2, room=4)
    assert loop.kind == "host"
    assert loop.write(loop.begin(), 2)[1][0, :, 0].tolist() == [8, 9]
    assert capsys.readouterr().err == (
        "eager: cannot be traced (ConcretizationTypeError): its loop is Python's\n"
    )


def test_each_event_has_a_key_of_its_own():
    def step(carry, ids_BS, key):
        return carry, jax.random.randint(key, ids_BS.shape, 0, 1 << 30, jnp.int32)

    init, *_ = counting(jnp)
    loop = make_loop(StepModel("random", init, step), rows=2, room=4)
    written = [np.asarray(loop.write(loop.begin(), 4)[1]) for _ in range(2)]
    assert len(np.unique(written)) == 16


def test_arrays_of_a_partial_are_arguments_of_the_program():
    init, *_ = counting(jnp)

    def step(weight, carry, ids_BS, key):
        return carry + weight[None], ids_BS

    model = StepModel("bound", init, Partial(step, jnp.ones(3)))
    loop = make_loop(model, 1, 4)
    loop.write(loop.begin(), 2)
    (program,) = loop._programs.values()
    assert "f32[3]{0} parameter" in program.as_text()


def test_the_example_of_the_docs_is_a_model():
    page = (Path(__file__).resolve().parent.parent / "docs" / "decoding.md").read_text(encoding="utf-8")
    (code,) = (part for part in page.split("```")[1::2] if "def build():" in part)
    there: dict = {}
    exec(code.removeprefix("python"), there)
    loop = make_loop(StepModel("docs", *there["build"]()), rows=2, room=4)
    assert loop.kind == "jitted"
    assert loop.write(loop.begin(), 4)[1].shape == (2, 4, 1)


def test_a_state_that_grows_is_seen_to_grow():
    def init(rows, events):
        return [], np.zeros((rows, 1), np.int64)

    def step(carry, ids_BS, key):
        return [*carry, np.zeros((len(ids_BS), 4), np.float32)], ids_BS

    assert state_size(StepModel("list", init, step), 8) == StateSize(0, 16_000)
    assert state_size(StepModel("counting", *counting(np)), 8) == StateSize(12, 0)
    assert state_size(StepModel("jitted", *counting(jnp)), 8) == StateSize(12, 0)
    room = StepModel("cache", *transformer.equal_to(tiny_network()))
    assert state_size(room, 8) == StateSize(8 * 2 * 2 * 16 * 4, 1000 * 2 * 2 * 16 * 4)


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"init": lambda rows, events: 3}, "init gives int; return (carry, ids)"),
        ({"init": lambda rows, events: (0, [1])}, "init gives ids list; give integers (2, S)"),
        ({"init": lambda rows, events: (0, np.zeros((2, 1)))}, "ids (2, 1) float64; give integers (2, S)"),
        ({"init": lambda rows, events: (0, jnp.zeros((1, 1), int))}, "ids (1, 1) int32; give integers"),
        ({"step": lambda carry, ids, key: ids}, "step gives (2, 1) int32; return (carry, ids)"),
        (
            {"step": lambda carry, ids, key: (carry, ids[:, 0])},
            "give them as it got them, (2, 1) int32",
        ),
        ({"step": lambda carry, ids, key: (carry, ids * 1.0)}, "step gives ids (2, 1) float32; give them as"),
        ({"step": lambda carry, ids, key: (carry[:1], ids)}, "step changes shapes of its carry; keep them"),
    ],
)
def test_what_a_step_may_not_give_is_refused_in_a_line(part, complaint):
    init, step, _ = counting(jnp)
    model = StepModel("mine:build", init, step)._replace(**part)
    with pytest.raises(InputError) as caught:
        make_loop(model, rows=2, room=4)
    assert str(caught.value).startswith("--model mine:build: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("def build(): return 3", "gives int; return (init, step) or (init, step, about)"),
        ("def build(): return print, print, 3", "about is int; give a dict of parameters, dtype"),
        ("def build(): return print, print, {'dtyp': 'x'}", "about 'dtyp': did you mean dtype?"),
        (
            "def build(): return print, print, {'notes': 3}",
            "about['notes'] is int; leave it out, or mend it",
        ),
        ("build = 3", "has no function build; it has no functions"),
        ("import no_such_package", "it needs no_such_package, which is not installed"),
    ],
)
def test_a_module_that_gives_no_model_is_refused(tmp_path, monkeypatch, body, complaint, request):
    name = f"mine_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.chdir(tmp_path)  # modules are found in the current folder
    monkeypatch.syspath_prepend(tmp_path)  # and forgotten after the test
    with pytest.raises(InputError) as caught:
        load_step_model(f"{name}:build")
    assert complaint in str(caught.value)


def test_the_command_measures_a_step_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stepping.py").write_text(
        "import numpy as np\n"
        "def build():\n"
        "    init = lambda rows, events: (np.zeros((rows, 2), np.float32), np.zeros((rows, 1), np.int32))\n"
        "    step = lambda carry, ids, key: (carry, key.integers(0, 9, ids.shape, np.int32))\n"
        "    about = {'parameters': np.int64(12), 'dtype': 'float32', 'backend': 'numpy', 'threads': 1,\n"
        "             'seconds': lambda ids: ids[:, 0] * 0 + 0.25, 'notes': lambda ids: ids[:, 0] * 0 + 2}\n"
        "    return init, step, about\n"
    )
    whole = decoding.bench_step
    monkeypatch.setattr(decoding, "bench_step", lambda *given: whole(*given[:3], seconds=0.001, rounds=2))
    words = ["bench", "decode", "--quick", "--batches", "1", "--events", "8", "--model", "stepping:build"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", str(tmp_path / "rows.jsonl")]) == 0
    written = rows.read(tmp_path / "rows.jsonl")
    by_name = {row["name"].removeprefix("decode."): row for row in written}
    assert set(by_name) == {
        *("events_per_s", "notes_per_s", "realtime_factor", "prefill_events_per_s", "us_per_event"),
        *("event_ms.p50", "event_ms.p99", "state_bytes", "state_growth"),
        *("first_note_ms", "first_note_ms.prompt", "first_note_ms.cold", "first_note_ms.cached"),
    }
    assert {(row["config"]["model"], row["config"]["loop"]) for row in written} == {
        ("stepping:build", "host")
    }
    rate, notes = by_name["events_per_s"]["value"], by_name["notes_per_s"]["value"]
    assert notes == pytest.approx(2 * rate, rel=1e-3)
    assert by_name["realtime_factor"]["value"] == pytest.approx(rate / 4, rel=1e-3)
    assert by_name["first_note_ms.prompt"]["config"]["prompt"] == 64  # 8 bars are 16 seconds
    # A process begins, imports JAX and writes: that takes longer than to write.
    assert by_name["first_note_ms.cold"]["value"] > by_name["first_note_ms"]["value"]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert line.startswith("| stepping:build | 12 parameters | float32 | numpy, 1 thread, ")
    assert "| 1 piece, host loop | prompt of 256: " in line
    assert line == decode_rows.line_of(written)


def test_a_cold_start_that_is_refused_is_told_in_its_words():
    with pytest.raises(InputError, match="pretrained:nothing: no model of the package"):
        first_note.starts(first_note.Start(run="pretrained:nothing"), 1)


def test_a_cold_start_writes_an_event_of_fresh_weights():
    small = {"model.width": "8", "model.blocks": "lstm,pooled"}
    event = first_note._first_event(first_note.Start(settings=small))
    assert 1 <= event[0] < 1000
    assert 0 <= event[1] < 50


def tiny_network():
    model = dataclasses.replace(pooling_article(), pitch_embedding=6, duration_embedding=5, width=16)
    return Network(model, chord_vocabulary(7, 23))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"width": 512},
        {"blocks": ("lstm",) * 4 + ("pooled(residual=false)",)},
        {"heads": "chained"},
        {"width": 64, "pitch_embedding": 300},
    ],
)
def test_a_transformer_has_as_many_parameters(changed):
    network = Network(dataclasses.replace(pooling_article(), **changed), chord_vocabulary(50, 1000))
    ours = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    theirs = jax.eval_shape(partial(transformer.fresh, transformer.shape_of(network)), jax.random.key(0))
    counts = [sum(leaf.size for leaf in jax.tree.leaves(params)) for params in (ours, theirs)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_a_transformer_reads_the_whole_as_step_by_step_and_sees_no_later_event():
    weights = transformer.tables_of(transformer.fresh(SHAPE, jax.random.key(0)))
    ids_BTS = jnp.asarray(np.random.default_rng(0).integers(2, 7, (3, 9, 2)), jnp.int32)
    begin, _ = transformer.begin(SHAPE, 3, 12)
    forward = jax.jit(transformer.forward)
    whole, hidden_BTD = forward(weights, begin, ids_BTS)
    cache, found = begin, []
    for part_BTS in jnp.split(ids_BTS, [1, 5, 6], axis=1):
        cache, part_BTD = forward(weights, cache, part_BTS)
        found.append(part_BTD)
    close = {"atol": 1e-5}  # sums in other orders
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), hidden_BTD, **close)
    jax.tree.map(partial(np.testing.assert_allclose, **close), whole, cache)
    _, other_BTD = forward(weights, begin, ids_BTS.at[:, 5].set(1))
    np.testing.assert_array_equal(other_BTD[:, :5], hidden_BTD[:, :5])
    assert (jnp.abs(other_BTD[:, 5:] - hidden_BTD[:, 5:]).max(axis=(0, 2)) > 1e-3).all()


def test_a_transformer_is_one_loop_that_copies_no_cache_and_draws_what_is_allowed():
    model = StepModel("transformer", *transformer.equal_to(tiny_network()))
    loop = make_loop(model, rows=5, room=24)
    assert loop.kind == "jitted"
    _, written_BNS = loop.write(loop.begin(), 24)
    pitch, duration = np.moveaxis(np.asarray(written_BNS), -1, 0)
    assert pitch.min() > 1
    assert duration.min() > 0
    assert len({tuple(row) for row in pitch.tolist()}) == 5  # rows draw apart
    (program,) = loop._programs.values()
    body = program.as_text().split("ENTRY")[0]
    assert "f32[5,24,16]" in body
    assert not [line for line in body.splitlines() if "f32[5,24,16]" in line and " copy(" in line]
