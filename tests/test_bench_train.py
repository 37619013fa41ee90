"""The training benchmark: all sides train one model, and the rows say what was measured."""

import importlib.util
import json

import jax
import numpy as np
import pytest

import bench_train
from midigen_jax.model.network import IMPOSSIBLE, Network
from midigen_jax.train.step import init_state
from midigen_jax.vocab import START
from rivals.job import lstm_layers
from tests.tiny import chord_vocabulary
from train_sides import flax_cell, ours
from train_sides.job import Job, config_of, music_of

JOB = Job("ours", threads=1, rows=4, length=8)
STEPS = 4
CLOSE = {"rtol": 1e-6}  # float32 has 7 digits, and sums come in another order


@pytest.fixture(scope="module")
def our_losses():
    """The loss before each of the first steps."""
    side = ours.build(JOB, {"steps_per_call": 1})
    return [side.call() for _ in range(STEPS)]


@pytest.fixture(scope="module")
def weights():
    """Ours before the first step; what our rules forbid is impossible by a bias, for a side without rules."""
    config, music = config_of(JOB), music_of(JOB)
    network = Network(config.model, chord_vocabulary(music.duration_size, music.pitch_size))
    state = init_state(network, config.train)
    params = jax.tree.map(np.array, state.params)
    params["head_pitch"]["bias"][START] = params["head_duration"]["bias"][0] = IMPOSSIBLE
    return params


def flax_cell_of(layer):
    """A layer of ours as the parameters of `OptimizedLSTMCell`: one gate after another, i f g o."""
    cell = {}
    for part, matrix, bias in (("i", "input", None), ("h", "recurrent", "bias")):
        for number, gate in enumerate("ifgo"):
            cell[part + gate] = {"kernel": np.split(layer[matrix], 4, axis=1)[number]}
            if bias is not None:
                cell[part + gate]["bias"] = np.split(layer[bias], 4)[number]
    return cell


@pytest.mark.parametrize("settings", [{"unroll": 1, "time_major": True}, {"unroll": 4, "time_major": False}])
def test_flax_trains_our_model(our_losses, weights, settings):
    config, music = config_of(JOB), music_of(JOB)
    params = {
        "Embed_0": weights["embed_pitch"],
        "Embed_1": weights["embed_duration"],
        "OptimizedLSTMCell_0": flax_cell_of(weights["blocks_0"]),
        "OptimizedLSTMCell_1": flax_cell_of(weights["blocks_1"]),
        "Dense_0": weights["blocks_2"]["score"],
        "Dense_1": weights["head_pitch"],
        "Dense_2": weights["head_duration"],
    }
    twin = flax_cell.Twin(config.model, music.pitch_size, music.duration_size, **settings)
    call = flax_cell.steps(twin, params, config, np.stack(music.pieces))
    np.testing.assert_allclose([call() for _ in range(STEPS)], our_losses, **CLOSE)


@pytest.mark.parametrize(("batch_first", "adamw"), [(False, "fused"), (True, "foreach")])
def test_torch_trains_our_model(our_losses, weights, batch_first, adamw):
    torch = pytest.importorskip("torch")
    from train_sides import torch_lstm

    def column(dense, name):
        return {f"{name}.weight": dense["kernel"].T, f"{name}.bias": dense["bias"]}

    config, music = config_of(JOB), music_of(JOB)
    state = {
        f"embed_{stream}.weight": weights[f"embed_{stream}"]["embedding"] for stream in ("pitch", "duration")
    }
    for number in range(lstm_layers(config.model)):
        layer = weights[f"blocks_{number}"]
        state[f"lstm.weight_ih_l{number}"] = layer["input"].T
        state[f"lstm.weight_hh_l{number}"] = layer["recurrent"].T
        state[f"lstm.bias_ih_l{number}"] = layer["bias"]
        state[f"lstm.bias_hh_l{number}"] = np.zeros_like(layer["bias"])
    state |= column(weights[f"blocks_{lstm_layers(config.model)}"]["score"], "score")
    state |= column(weights["head_pitch"], "head_pitch") | column(weights["head_duration"], "head_duration")
    twin = torch_lstm.Twin(config.model, music.pitch_size, music.duration_size, batch_first)
    twin.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    for name, weight in twin.lstm.named_parameters():
        # PyTorch has two biases where we have one; both would be trained.
        weight.requires_grad_(not name.startswith("bias_hh"))
    call = torch_lstm.steps(twin, config, np.stack(music.pieces), adamw)
    np.testing.assert_allclose([call() for _ in range(STEPS)], our_losses, **CLOSE)


def measured(capsys, *arguments):
    """The rows of a small run, by name, and what stood on standard error."""
    small = ["--threads", "1", "--shapes", "2x4", "--rounds", "3", "--seconds", "0.01"]
    assert bench_train.main([*small, *arguments]) == 0
    said = capsys.readouterr()
    return {row["name"]: row for row in map(json.loads, said.out.splitlines())}, said.err


def test_rows_say_what_was_measured(capsys):
    found, _ = measured(capsys, "--sides", "ours", "peak")
    assert set(found) == {
        "train.tokens_per_s",
        "train.flops_per_s",
        "train.compile_seconds",
        "train.flops_per_s.peak",
        "train.share_of_peak",
    }
    vocabulary = {"pitch": 1000, "duration": 50}
    for row in found.values():
        shape = {"batch": 2, "length": 4, "threads": 1, "vocabulary": vocabulary}
        assert row["config"] == shape | ({} if row["name"].endswith("peak") else {"steps_per_call": 8})
        assert row["command"].startswith("python scripts/bench_train.py --threads 1 --shapes 2x4")
    values = {name: row["value"] for name, row in found.items()}
    share = values["train.flops_per_s"] / values["train.flops_per_s.peak"]
    assert values["train.share_of_peak"] == pytest.approx(share, rel=1e-4)  # six digits of each
    assert 0 < found["train.tokens_per_s"]["cores"] <= 1.1  # a clock's tick beside one core


@pytest.fixture
def pieces(tmp_path):
    """Pieces of 6, 3 and 1 events."""
    pieces = [[["C4", 1.0], ["E4", 0.5], ["C4", 0.25]] * 2, [["G4", 1.0]] * 3, [["A4", 1.0]]]
    path = tmp_path / "pieces.json"
    path.write_text(json.dumps(pieces))
    return path


def test_data_becomes_ids_and_every_event_but_a_first_one_gives_a_loss(pieces):
    job = Job("ours", threads=1, rows=2, length=4, data=str(pieces))
    music = music_of(job)
    assert [piece.tolist() for piece in music.pieces] == [[[2, 3], [4, 2], [2, 1]] * 2, [[3, 3]] * 3]
    assert (music.pitch_size, music.duration_size) == (5, 4)
    # Crops of 4, 1 and 2 events that are followed by another.
    assert ours.build(job, {"steps_per_call": 3}).amounts == {
        "tokens": 24,
        "losses": pytest.approx(3 * 2 * 7 / 3),
    }


def test_rare_chords_share_an_id(pieces):
    music = music_of(Job("ours", threads=1, rows=2, length=4, data=str(pieces), chords=1))
    assert [piece[:, 0].tolist() for piece in music.pieces] == [[2, 3, 2] * 2, [3] * 3]
    assert music.pitch_size == 4


@pytest.mark.skipif(importlib.util.find_spec("keras") is not None, reason="keras is installed here")
def test_a_side_that_is_not_installed_is_named(capsys, tmp_path):
    (tmp_path / "long.json").write_text(json.dumps([[["C4", 1.0]] * 33]))
    found, complaint = measured(capsys, "--sides", "keras.jax", "--data", str(tmp_path / "long.json"))
    assert not found
    assert "keras.jax left out: keras is not installed" in complaint


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "nowhere.json"], "nowhere.json: No such file"),
        (["--data", __file__], "give a JSON list of pieces"),
        (["--threads", "4096"], "--threads 4096: this process may use"),
    ],
)
def test_what_cannot_be_run_is_refused(capsys, arguments, complaint):
    assert bench_train.main(["--sides", "keras.jax", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_pieces_without_a_window_are_refused(capsys, pieces):
    assert bench_train.main(["--sides", "keras.jax", "--data", str(pieces)]) == 2
    assert "no piece of more than 32 events" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["64", "64x", "0x32", "ax32"])
def test_a_shape_is_two_numbers(capsys, shape):
    with pytest.raises(SystemExit):
        bench_train.main(["--shapes", shape])
    assert "give rows and length" in capsys.readouterr().err
