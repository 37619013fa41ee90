"""The benchmark of training: what it counts is what is multiplied, and what it writes are rows."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.config import ModelConfig
from midigen_jax.model.cost import flops, tile_share
from midigen_jax.model.network import Network, init_params, score
from tests.tiny import chord_vocabulary

SMALL = ModelConfig(pitch_embedding=24, duration_embedding=8, width=32, dropout=0.0)


def multiplied(jaxpr):
    """Floating-point operations of all products in a jaxpr that are done, loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            left, right = (variable.aval.shape for variable in equation.invars)
            shared = math.prod(left[axis] for axis in (*contracted, *batch))
            total += 2 * math.prod(left) * math.prod(right) // max(shared, 1)
        inner = [multiplied(part) for part in jaxprs_in_params(equation.params)]
        run = max if equation.primitive.name == "cond" else sum  # one branch of several
        total += run(inner) * equation.params.get("length", 1)
    return total


@pytest.mark.parametrize("heads", ["independent", "chained"])
@pytest.mark.parametrize("attention", [(), ("pooled(window=16)",), ("multihead(window=16)",)])
@pytest.mark.parametrize("pitch_size", [40, 4000])
def test_the_operations_are_those_of_the_products_in_the_program(attention, heads, pitch_size):
    model = dataclasses.replace(SMALL, blocks=("lstm", "lstm", *attention), heads=heads)
    network = Network(model, chord_vocabulary(20, pitch_size))
    params = jax.eval_shape(lambda: init_params(network, jax.random.key(0)))
    events = dict.fromkeys(("pitch", "duration"), jax.ShapeDtypeStruct((16, 65), jnp.int32))
    mask = jax.ShapeDtypeStruct((16, 64), jnp.bool_)

    def loss(params, events, mask):
        _, nats = score(network, params, network.initial_carry(16), events, mask)
        return (nats["pitch"] + nats["duration"]).sum()

    traced = jax.make_jaxpr(jax.grad(loss))(params, events, mask)
    assert network.use_lookup(16 * 64, dropout=True) == (pitch_size == 40)
    # A column of ones for the bias of each layer goes on top.
    assert multiplied(traced.jaxpr) == pytest.approx(flops(network, 16, 64), rel=0.02)


def test_a_tpu_pads_what_is_no_whole_tile():
    rules = chord_vocabulary(128, 256)
    sizes = {"pitch_embedding": 64, "duration_embedding": 64, "width": 128}
    model = ModelConfig(**sizes, blocks=("lstm",), heads="independent", dropout=0.5)
    assert tile_share(Network(model, rules), 8, 4) == 1
    # 12 rows are 16 in the recurrence; in all other products 48 rows are whole tiles.
    whole, recurrent = 48 * 128 * (512 + 256 + 128), 4 * 128 * 512
    expected = (whole + 12 * recurrent) / (whole + 16 * recurrent)
    assert tile_share(Network(model, rules), 12, 4) == pytest.approx(expected)
    assert tile_share(Network(dataclasses.replace(model, width=100), rules), 8, 4) < 0.8


def test_the_command_prints_rows_writes_them_and_takes_a_trace(tmp_path, capsys):
    words = ["bench", "train", "--model.width", "8", "--batch.rows", "2", "--batch.length", "8"]
    words += ["--out", str(tmp_path / "rows.jsonl"), "--profile", str(tmp_path / "trace")]
    assert main(words) == 0
    found = {row["name"]: row for row in rows.read(tmp_path / "rows.jsonl")}
    assert set(found) == {
        "train.events_per_s",
        "train.compile_seconds",
        "train.peak_gflops_per_s",
        "train.share_of_peak",
        "train.tpu_tile_share",
    }
    assert found["train.share_of_peak"]["config"]["devices"] == 2
    assert 0 < found["train.share_of_peak"]["value"] < 1
    printed = capsys.readouterr().out
    assert f"{found['train.events_per_s']['value']:,.6g} events/s" in printed
    trace = next((tmp_path / "trace").rglob("perfetto_trace.json.gz"))
    assert str(trace) in printed
    assert main(words) == 2
    assert "something else" in capsys.readouterr().err
