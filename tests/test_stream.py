"""Streaming: what is read from disk is what `batch` takes from the device, at any step and for any rows."""

import signal

import jax
import numpy as np
import pytest

from midigen_jax.config import BatchConfig, Config, override
from midigen_jax.data.batches import batch, make_crops, row_numbers, to_batch_row
from midigen_jax.data.prepare import prepare
from midigen_jax.data.stream import Stream, stacked
from midigen_jax.errors import InputError
from midigen_jax.progress import Progress
from midigen_jax.study.plan import make_study
from midigen_jax.train.loop import fit
from tests.tiny import SMALLEST, measured

TINY = override(
    Config(),
    SMALLEST
    | {
        "batch.rows": 4,
        "train.steps": 12,
        "train.evaluate_every": 4,
        "train.steps_per_call": 3,
    },
)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    folder = tmp_path_factory.mktemp("corpus")
    music = write_melodies(folder / "music", count=20, notes=45)
    return prepare([str(music)], folder / "out", TINY.prepare, workers=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crops": "fixed", "stride": 5, "transpose_share": 0.0},
        {"before": 7, "data_share": 0.5, "transpose_share": 1.0},
    ],
)
def test_any_step_reads_what_the_device_would(corpus, changes):
    config = BatchConfig(**{"rows": 6, "length": 16} | changes)
    share, vocabulary = config.transpose_share, corpus.vocabulary
    crops, stream = make_crops(corpus, "train", config), Stream(corpus, config, share, KEY)
    assert stream.crops == crops.places.first_CROP.shape[0]
    take = jax.jit(lambda step: batch(crops, config, vocabulary, share, KEY, row_numbers(config, step)))
    show = jax.jit(jax.vmap(lambda raw: to_batch_row(raw, config, vocabulary, share > 0)))
    # Not in order, and beyond an epoch.
    for step in (0, 63, 64, 1, 500):
        held, streamed = take(np.int32(step)), show(stream.read(step, np.arange(6)))
        jax.tree.map(np.testing.assert_array_equal, held, streamed)
    some = show(stream.read(7, np.array([1, 4, 5])))
    expected = jax.tree.map(lambda all_B: all_B[np.array([1, 4, 5])], take(np.int32(7)))
    jax.tree.map(np.testing.assert_array_equal, some, expected)


def test_grain_gives_the_steps_in_order_from_any(corpus):
    stream = Stream(corpus, TINY.batch, 0.6, KEY)
    whole = list(stream.steps(0, 70, np.arange(4)))
    assert len(whole) == 70
    for step, read in zip(range(61, 70), stream.steps(61, 70, np.arange(4)), strict=True):
        jax.tree.map(np.testing.assert_array_equal, read, whole[step])
    padded = stacked(whole[:2], 5)
    for stream, ids in padded.events.items():
        assert ids.shape == (5, *whole[0].events[stream].shape)
        np.testing.assert_array_equal(ids[1], whole[1].events[stream])
        assert not ids[2:].any()


def test_a_streamed_training_is_the_other_one_to_the_bit_cut_or_not(corpus, tmp_path, monkeypatch):
    streamed = override(TINY, {"batch.stream": True})
    fit(corpus, TINY, tmp_path / "held")
    fit(corpus, streamed, tmp_path / "streamed")
    assert measured(tmp_path / "streamed") == measured(tmp_path / "held")
    advance = Progress.advance

    def cut(progress, *args, **kwargs):
        advance(progress, *args, **kwargs)
        if progress._label == "training" and progress._done == 7:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", cut)
        assert fit(corpus, streamed, tmp_path / "cut").step == 7
    assert fit(corpus, streamed, tmp_path / "cut").step == 12
    kept = [row for row in measured(tmp_path / "cut") if row[1].startswith("valid")]
    assert kept == [row for row in measured(tmp_path / "held") if row[1].startswith("valid")]


def test_a_study_is_not_streamed():
    with pytest.raises(InputError, match=r"batch\.stream: studies hold their corpus on the device"):
        make_study({"corpus": ["bach"], "budget": {"steps": 1}, "base": {"batch.stream": True}}, "tiny")
