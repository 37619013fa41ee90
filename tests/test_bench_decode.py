"""The benchmark of decoding: rows say what was measured, and all rivals compute our function."""

import dataclasses
import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.config import ContextConfig, ModelConfig
from midigen_jax.errors import InputError
from midigen_jax.listen.rates import draw_rates
from midigen_jax.model.network import Network, init_params
from midigen_jax.recipes import pooling_article
from midigen_jax.sample.decode import Decoded
from midigen_jax.sample.generate import STREAMED
from midigen_jax.study import contenders, decode_rows, decoding, first_note
from midigen_jax.study.floor import floor, step_weights
from midigen_jax.study.subject import Subject, fresh, pitch_entropy, untold, without_end
from midigen_jax.study.turns import Loop
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from rivals import decode as peers_of
from rivals.decode import WINDOW, Peers, window_trunk
from rivals.job import (
    draw,
    first_event,
    layers_of,
    load_weights,
    save_weights,
    tables_of,
    with_rules,
)
from tests.tiny import chord_vocabulary

TINY = dataclasses.replace(pooling_article(), pitch_embedding=6, duration_embedding=5, width=16)
RULES = chord_vocabulary(7, 23)
CLOSE = {"atol": 1e-4}  # other libraries sum in other orders
STEPS = 5


@pytest.fixture(scope="module")
def subject():
    network = Network(TINY, RULES)
    return Subject(network, without_end(network, jax.jit(partial(init_params, network))(jax.random.key(0))))


@pytest.fixture(scope="module")
def weights(subject, tmp_path_factory):
    """What rivals read."""
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    save_weights(path, jax.device_get(subject.params))
    return load_weights(str(path))


@pytest.fixture(scope="module")
def events():
    """The first event and those after it: ids (T, B)."""
    rng, first = np.random.default_rng(0), first_event(3)
    shape = (WINDOW - 1, 3)
    size_of = dict(RULES.streams)
    others = rng.integers(2, size_of["pitch"], shape), rng.integers(1, size_of["duration"], shape)
    return tuple(np.concatenate([one[None], more]) for one, more in zip(first, others, strict=True))


@pytest.fixture(scope="module")
def expected(subject, weights, events):
    """Our logits after each event, (T, B, V) of both heads, from one pass over all of them."""
    params = jax.tree.map(jnp.asarray, weights)
    read = by_name(*(ids.T for ids in events))
    model = subject.network.bind({"params": params})
    _, trunk = model(model.initial_carry(3), read, jnp.ones(read["pitch"].shape, bool))
    # With the biases as rivals have them and no rules of ours: both ways of forbidding must agree.
    pitch_BTP, duration_BTR = (
        trunk.hidden_BTD @ params[head]["kernel"] + params[head]["bias"][None, None]
        for head in ("head_pitch", "head_duration")
    )
    allowed_BTP = np.asarray(jax.nn.softmax(model.stream_logits("pitch", trunk, {})))
    np.testing.assert_allclose(jax.nn.softmax(pitch_BTP), allowed_BTP, **CLOSE)
    return tuple(np.swapaxes(np.asarray(logits), 0, 1) for logits in (pitch_BTP, duration_BTR))


def by_name(pitch, duration):
    return {"pitch": jnp.asarray(pitch, jnp.int32), "duration": jnp.asarray(duration, jnp.int32)}


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def test_the_floor_multiplies_what_a_step_multiplies(subject):
    products = subject.network.matmuls(rows=1, length=1)
    embedding = TINY.pitch_embedding + TINY.duration_embedding
    # The first layer's input is looked up.
    expected = sorted((inner, columns) for _, _, inner, columns in products if inner != embedding)
    found = step_weights(subject.network, subject.params)
    assert sorted(weight.shape for weight in found) == expected
    assert all(any(weight is leaf for leaf in jax.tree.leaves(subject.params)) for weight in found)


@pytest.mark.parametrize("attention", [(), ("pooled(window=4)",), ("multihead(window=4)",)])
@pytest.mark.parametrize("heads", ["independent", "chained"])
def test_the_floor_is_of_any_network(attention, heads):
    sizes = {"pitch_embedding": 8, "duration_embedding": 8, "width": 16}
    model = ModelConfig(**sizes, blocks=("lstm",) * 3 + attention, heads=heads)
    network = Network(model, RULES)
    params = jax.eval_shape(lambda: init_params(network, jax.random.key(0)))
    weights = [weight.shape for weight in step_weights(network, params)]
    products = network.matmuls(rows=1, length=1)
    mixes = [(inner, columns) for times, _, inner, columns in products if inner == 16 or columns == 48]
    # The network's first input is as wide as a state here, and attention's own products have no weights.
    assert weights.count((16, 64)) == 5
    assert set(weights) <= set(mixes) | {(16, 16)}
    assert (16, 23) in weights
    assert ((16, 48) in weights) == (attention == ("multihead(window=4)",))


def test_every_product_of_the_floor_is_in_the_program(subject):
    weights = step_weights(subject.network, subject.params)
    compiled = floor.lower(weights, jnp.ones((2, 16)), dtype="float32", steps=3).compile()
    operations = [
        line for line in compiled.as_text().splitlines() if " dot(" in line or "custom-call" in line
    ]
    assert len(operations) >= len(weights)


def test_fresh_weights_draw_as_a_trained_model_does():
    found = fresh(dataclasses.replace(TINY, width=32))
    loop = Loop(found.network, found.params, 16, 64)
    assert pitch_entropy(found.network, found.params, loop()) == pytest.approx(2, abs=0.5)
    assert pitch_entropy(found.network, found.flat, loop.other(found.flat)()) > 6


def test_a_loop_goes_on_and_never_ends(subject):
    loop = Loop(subject.network, subject.params, 2, 8, filtered=True)
    first, second = (jax.device_get(loop()) for _ in range(2))
    assert (first.length_B == 8).all()
    assert (second.length_B == 8).all()
    pitches = [decoded.events["pitch"] for decoded in (first, second)]
    assert (np.concatenate(pitches) > 1).all()
    assert (pitches[0] != pitches[1]).any()


def test_notes_are_pitches_that_are_attacked(subject):
    network = Network(TINY, ChordVocabulary(((60,), (60, 64, 67)), max_duration=6))
    written = Decoded(by_name([[3, 4, 5, 5]], [[1, 1, 1, 1]]), jnp.array([4]))
    trained = subject._replace(network=network, origin="a run")
    assert decoding._notes(trained, written) == (0 + 1 + 3 + 3) / 4
    assert decoding._notes(subject, written) is None  # ids of fresh weights mean nothing


OURS = {
    "decode.events_per_s",
    "decode.realtime_factor",
    "decode.state_bytes",
    "decode.state_growth",
    "decode.event_ms.p50",
    "decode.event_ms.p99",
    "decode.prefill_events_per_s",
    "decode.share_of_floor",
    "decode.filters_cost",
    "decode.filters_cost.flat",
    "decode.compile_seconds",
    "decode.compile_seconds.filters",
    "decode.compile_seconds.prefill",
}
ALONE = {
    "decode.us_per_event",
    "decode.step_p50_us",
    "decode.step_p99_us",
    "decode.first_note_ms",
    "decode.first_note_ms.prompt",
}
COLD = {"decode.first_note_ms.cold", "decode.first_note_ms.cached"}


def test_the_command_prints_rows_and_writes_them(tmp_path, capsys, monkeypatch):
    whole = decoding.bench_decode
    quick = lambda *given: whole(*given[:4], seconds=0.01, rounds=2)  # noqa: E731
    monkeypatch.setattr(decoding, "bench_decode", quick)
    # Processes have a test of their own.
    monkeypatch.setattr(first_note, "starts", lambda start, times: {"cold": [4.0, 6.0], "cached": [2.0, 2.5]})
    words = [
        "bench",
        "decode",
        "--batches",
        "1",
        "--events",
        "8",
        "--model.width",
        "8",
        "--model.blocks",
        "lstm,pooled",
    ]
    words += ["--model.compute_dtype", "bfloat16", "--out", str(tmp_path / "rows.jsonl")]
    assert main(words) == 0
    written = rows.read(tmp_path / "rows.jsonl")
    by_name = {row["name"]: row for row in written}
    assert set(by_name) == OURS | ALONE | COLD
    for row in written:
        config = row["config"]
        assert (config["events"], config["width"], config["dtype"]) == (8, 8, "bfloat16")
        assert (config["weights"], config["vocabulary"]) == ("fresh", {"pitch": 1000, "duration": 50})
        assert row["min"] <= row["value"] <= row["max"]
        assert (config["batch"], config["cores"] > 0) == (1, True)
        assert (row["parameters"] > 100_000, row["backend"]) == (True, "cpu")
    values = {name: row["value"] for name, row in by_name.items()}
    quickest = by_name["decode.us_per_event"]["min"]
    assert quickest == pytest.approx(1e6 / by_name["decode.events_per_s"]["max"], rel=1e-4)
    assert by_name["decode.step_p50_us"]["config"]["dispatch"] is True
    costs = [by_name[f"decode.filters_cost{flat}"]["config"] for flat in ("", ".flat")]
    assert costs[0]["pitch_entropy"] < costs[1]["pitch_entropy"]
    # 120 quarters a minute of 12 ticks each: what is written is what its ticks say.
    factor, prompt = by_name["decode.realtime_factor"], by_name["decode.first_note_ms.prompt"]
    assert factor["config"]["tempo"] == 120
    ticks = factor["value"] / values["decode.events_per_s"] * 24
    assert prompt["config"]["prompt"] == pytest.approx(8 * 48 / ticks, abs=1)
    assert by_name["decode.event_ms.p50"]["config"]["events_a_call"] == STREAMED
    assert values["decode.event_ms.p50"] <= values["decode.event_ms.p99"]
    assert values["decode.first_note_ms.cold"] == 5000
    # Byte by byte, of one layer of 8.
    floats = 8 * (2 + 1) + 1  # a layer's two states, both sums of the attention
    trunk = 8 * 4 + 1  # what the heads read; chords follow each other freely, so nothing is kept of that
    assert values["decode.state_bytes"] == 4 * floats + trunk + 1 + 4 + 4  # done, ticks, and events
    assert values["decode.state_growth"] == 0
    printed = capsys.readouterr().out
    assert "batch 1\n" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("|"))
    assert line == decode_rows.line_of(written)
    assert f"| {by_name['decode.events_per_s']['parameters']:,} parameters | bfloat16 | cpu, " in line
    assert "| first note, ms: cold process 5,000 ± 1,414, with kept programs 2,250 ± 354, warm " in line
    assert f"{values['decode.events_per_s']:,.6g} events/s" in printed


def test_a_network_that_is_told_of_the_past_is_measured_beside_one_that_is_not():
    told = dataclasses.replace(TINY, context=ContextConfig(place=True, intervals=True))
    network = Network(told, NoteVocabulary(6))
    subject = Subject(
        network, without_end(network, jax.jit(partial(init_params, network))(jax.random.key(0)))
    )
    assert not untold(subject).network.config.context.used
    measured = decoding.bench_decode(subject, batch=2, events=8, seconds=0.01, rounds=2)
    (cost,) = (row for row in decode_rows.rows_of(subject, measured) if row["name"] == "decode.context_cost")
    pairs = zip(measured.seconds["loop"], measured.seconds["untold"], strict=True)
    ratios = [told / bare for told, bare in pairs]
    assert cost["value"] == pytest.approx(np.median(ratios), rel=1e-3)
    assert cost["config"]["context"]["place"] is True


def test_rivals_take_turns_and_are_drawn(subject, tmp_path, capsys, monkeypatch):
    # Other libraries are tried below.
    monkeypatch.setattr(peers_of, "_MODULES", {})
    with Peers(subject, seconds=0.01) as peers, peers.at(2) as rivals:
        calls = {name: rival.round for name, rival in rivals.items()}
        measured = decoding.bench_decode(subject, 2, 8, calls, seconds=0.01, rounds=2)
    found = decode_rows.rows_of(subject, measured, rivals, command="x")
    by_name = {row["name"]: row for row in found}
    others = {f"decode.{kind}.{name}" for kind in ("events_per_s", "ratio") for name in rivals}
    others |= {f"decode.state_{kind}.transformer" for kind in ("bytes", "growth")}
    assert set(by_name) == OURS - {"decode.filters_cost.flat"} | others
    for name in ("window", "step", "transformer"):
        ratio, rate = by_name[f"decode.ratio.{name}"], by_name[f"decode.events_per_s.{name}"]
        ours = by_name["decode.events_per_s"]["value"]
        assert ratio["value"] == pytest.approx(ours / rate["value"], rel=1e-3)
        assert ratio["command"] == "x"
    assert by_name["decode.ratio.window"]["config"]["window"] == WINDOW
    told = by_name["decode.ratio.transformer"]["config"]["transformer"]
    ours = by_name["decode.events_per_s"]["parameters"]
    assert told["parameters"] == pytest.approx(ours, rel=0.02)
    assert told["room"] == 256
    # Keys and values of two layers.
    assert by_name["decode.state_growth.transformer"]["value"] == 1000 * 2 * 2 * 16 * 4
    assert by_name["decode.state_bytes.transformer"]["value"] == 256 * 2 * 2 * 16 * 4
    draw_rates(found, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_window_is_read_as_the_whole_past(subject, weights, events, expected):
    params = jax.tree.map(jnp.asarray, weights)
    trunk = window_trunk(subject.network, params, by_name(*(ids.T for ids in events)))
    found = subject.network.bind({"params": params}).stream_logits("pitch", trunk, {})[:, 0]
    np.testing.assert_allclose(softmax(found), softmax(expected[0][-1]), **CLOSE)
    np.testing.assert_allclose(found[:, 2:], expected[0][-1][:, 2:], **CLOSE)


def test_a_step_of_the_loop_in_python_is_ours(subject, weights, events, expected):
    params = jax.tree.map(jnp.asarray, weights)
    model = subject.network.bind({"params": params})
    carry, projections = subject.network.initial_carry(3), model.projections()
    for time in range(STEPS):
        event = by_name(*(ids[time, :, None] for ids in events))
        carry, trunk = peers_of._read(subject.network, params, carry, event, projections)
        found = model.stream_logits("pitch", trunk, {})[:, 0]
        np.testing.assert_allclose(found[:, 2:], expected[0][time][:, 2:], **CLOSE)


@pytest.mark.parametrize("form", ["cells", "nn.LSTM"])
def test_a_step_of_pytorch_is_ours(weights, events, expected, form):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its step is not compared")
    from rivals.torch_step import Step

    step = Step(weights, form)
    state = step.start(3)
    for time in range(STEPS):
        *logits, state = step(*(torch.from_numpy(ids[time]) for ids in events), state)
        for found, ours in zip(logits, expected, strict=True):
            np.testing.assert_allclose(found.numpy(), ours[time], **CLOSE)


def test_a_step_of_onnx_runtime_is_ours(weights, events, expected):
    for package in ("onnxruntime", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed: its step is not compared")
    from rivals.onnx_step import Step

    step = Step(weights, threads=1)
    state = step.start(3)
    for time in range(STEPS):
        *shares, state = step(*(ids[time] for ids in events), state)
        for found, ours in zip(shares, expected, strict=True):
            np.testing.assert_allclose(found, softmax(ours[time]), **CLOSE)


def test_the_model_of_the_article_is_ours(weights, events, expected):
    for package in ("keras", "tensorflow"):
        pytest.importorskip(package, reason=f"{package} is not installed: the model is not compared")
    from rivals.keras_model import model_of

    shares = model_of(weights).predict([ids.T.astype(np.int32) for ids in events], verbose=0)
    for found, ours in zip(shares, expected, strict=True):
        np.testing.assert_allclose(found, softmax(ours[-1]), **CLOSE)


def test_rivals_are_found_in_the_folder_that_is_named():
    assert contenders.rivals_in(str(Path(peers_of.__file__).parent)) is Peers


def test_what_rivals_are_given_is_ours_with_its_rules(subject, weights):
    params = jax.device_get(subject.params)
    for name in ("embed_pitch", "blocks_1"):
        jax.tree.map(np.testing.assert_array_equal, weights[name], params[name])
    assert len(layers_of(weights)) == 2
    projections = subject.network.bind({"params": subject.params}).projections()
    pitch_PG, duration_RG = tables_of(weights)
    bias_G = params["blocks_0"]["bias"]
    np.testing.assert_allclose(pitch_PG - bias_G, projections.streams["pitch"], **CLOSE)
    np.testing.assert_allclose(duration_RG, projections.streams["duration"], **CLOSE)
    ruled = with_rules(params)
    assert ruled["head_pitch"]["bias"].argmin() in (0, 1)
    assert ruled["head_duration"]["bias"][0] < -1e8
    assert params["head_duration"]["bias"][0] == 0


def test_an_id_is_drawn_as_often_as_its_share_says():
    share = np.array([[0.0, 0.2, 0.5, 0.3, 0.0]], np.float32)
    drawn = draw(np.repeat(share, 20_000, axis=0), np.random.default_rng(0))
    # Four deviations of the most frequent.
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 20_000, share[0], atol=0.015)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed here")
def test_a_rival_that_is_not_installed_is_named_once(subject, capsys, monkeypatch):
    monkeypatch.setattr(peers_of, "_MODULES", {"torch": "torch_step"})
    monkeypatch.setattr(peers_of, "_LARGEST", {"window": 0, "step": 0, "transformer": 0, "torch": 2})
    with Peers(subject, seconds=0.01) as peers:
        for batch in (1, 2):
            with peers.at(batch) as rivals:
                assert not rivals
    assert capsys.readouterr().err == "torch left out: torch is not installed; see --help\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--batches", "0"], "'0': give whole numbers, 1 to 65,536, as in 1,64"),
        (["--batches", "1,,2"], "give whole numbers"),
        (["--events", "none"], "give a number of events"),
        (["--plot", "speed.txt"], "--plot speed.txt: give a file that ends in .png or .svg"),
        (["--profile", "trace"], "that is one of `midigen bench train`"),
        (["--model.width", "0"], "model.width = 0 is out of range"),
        (["nowhere", "--model.width", "8"], "nowhere: has a model of its own; leave --model.width out"),
        (["nowhere"], "nowhere"),
        (["--config", "bach"], "--config bach has model.context, and fresh weights write chords"),
        (["pretrained:chorales", "--config", "article"], "leave it out, or RUN and --model"),
        (["--model", "rivals.transformer"], "give module:function, as in my.model:build"),
        (
            ["--model", "no_such_module:build"],
            "no module no_such_module; run where it lies, or put its folder",
        ),
        (["--model", "rivals.transformer:artcle"], "did you mean article?"),
        (["nowhere", "--model", "mine:build"], "--model mine:build: is measured alone; leave RUN out"),
        (["--peers", "--model", "mine:build"], "leave --peers out"),
        (
            ["--peers", "nowhere"],
            "--peers nowhere: no rivals there; they are in scripts/rivals",
        ),
        (["--model.width", "8", "--model", "mine:build"], "leave --model.width out"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, words, complaint):
    assert main(["bench", "decode", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"heads": "chained"}, "--peers: model.heads = chained: rivals have the article's network"),
        ({"blocks": ("gru", "pooled(residual=false)")}, "leave it at lstm,lstm,pooled"),
        ({"compute_dtype": "bfloat16"}, "leave it at float32"),
    ],
)
def test_rivals_have_one_network(subject, changed, complaint):
    other = Network(dataclasses.replace(TINY, **changed), RULES)
    with pytest.raises(InputError, match=complaint):
        Peers(subject._replace(network=other))
    with pytest.raises(InputError, match="leave RUN out"):
        Peers(subject._replace(origin="wide"))


def test_training_has_no_flag_of_decoding(capsys):
    assert main(["bench", "train", "--peers"]) == 2
    assert "that is one of `midigen bench decode`" in capsys.readouterr().err
    assert main(["bench"]) == 2
    assert "train | decode" in capsys.readouterr().err
