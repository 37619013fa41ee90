"""The decode loop: rows on their own, draws as the distribution says, music that the grammar allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import ModelConfig
from midigen_jax.model.grammar import NoteGrammar
from midigen_jax.model.network import IMPOSSIBLE, Network, init_params
from midigen_jax.music.tokens import END, START, NoteTokenizer
from midigen_jax.sample.decode import Prompt, Temperature, decode, sample

EVENTS = 24


# Windows that are shorter than what is written: rings go round, sums let go.
@pytest.fixture(
    scope="module", params=[("pooled", 0), ("pooled", 5), ("multihead", 5)], ids=lambda p: f"{p[0]}{p[1]}"
)
def model(request):
    kind, window = request.param
    config = ModelConfig(
        pitch_embedding=4,
        duration_embedding=4,
        width=8,
        layers=1,
        attention=kind,
        attention_window=window,
        attention_heads=2,
    )
    network = Network(config, NoteGrammar(duration_size=5))
    return network, jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(1)))


def run(model, keys, temperatures, events=EVENTS):
    network, params = model
    nothing = jnp.zeros((len(keys), 1), jnp.int32)
    prompt = Prompt(nothing + START, nothing, jnp.ones((len(keys), 1), bool))
    heat = jnp.array(temperatures, jnp.float32)
    return jax.device_get(decode(network, params, keys, prompt, Temperature(heat, heat), events=events))


def test_a_row_depends_on_its_own_key_and_temperature_alone(model):
    keys = jax.random.split(jax.random.key(0), 4)
    together = run(model, keys, [0.0, 0.5, 1.0, 2.0])
    for row, temperature in enumerate([0.0, 0.5, 1.0, 2.0]):
        alone = run(model, keys[row : row + 1], [temperature])
        length = alone.length_B[0]
        assert together.length_B[row] == length
        np.testing.assert_array_equal(together.pitch_BN[row, :length], alone.pitch_BN[0, :length])
        np.testing.assert_array_equal(together.duration_BN[row, :length], alone.duration_BN[0, :length])


def test_a_projection_that_is_looked_up_writes_what_a_multiplied_one_does(model):
    """A budget above the number of ids pays for the tables; its first events are those of a smaller one."""
    network, _ = model
    budget = 10 * EVENTS
    assert network.looks_up(budget, drops=False)
    assert not network.looks_up(EVENTS, drops=False)
    # The two round differently: a draw within 1e-7 of a boundary may fall on its other side. None does here.
    keys = jax.random.split(jax.random.key(7), 4)
    multiplied, looked_up = (run(model, keys, [1.0] * 4, events) for events in (EVENTS, budget))
    for row, length in enumerate(multiplied.length_B):
        assert length == min(looked_up.length_B[row], EVENTS)
        for short, long in zip(multiplied[:2], looked_up[:2], strict=True):
            np.testing.assert_array_equal(short[row, :length], long[row, :length])


def test_a_prompt_that_is_padded_is_continued_as_it_is_alone(model):
    """The longer prompt holds more events than a window of 5."""
    network, params = model
    attacked = NoteTokenizer.ATTACKED + 60
    prompts = [[(START, 0), *[(attacked + i, 1 + i % 3) for i in range(7)]], [(START, 0), (attacked, 2)]]
    padding = [(END, 3)] * (len(prompts[0]) - len(prompts[1]))
    keys, heat = jax.random.split(jax.random.key(4), 2), jnp.ones(2)

    def written(prompts, keys, lengths):
        tokens = jnp.array(prompts, jnp.int32)
        mask = jnp.arange(tokens.shape[1])[None] < jnp.array(lengths)[:, None]
        prompt = Prompt(tokens[..., 0], tokens[..., 1], mask)
        hot = heat[: len(keys)]
        return jax.device_get(decode(network, params, keys, prompt, Temperature(hot, hot), events=EVENTS))

    together = written([prompts[0], prompts[1] + padding], keys, [8, 2])
    for row, prompt in enumerate(prompts):
        alone = written([prompt], keys[row : row + 1], [len(prompt)])
        length = alone.length_B[0]
        assert together.length_B[row] == length
        np.testing.assert_array_equal(together.pitch_BN[row, :length], alone.pitch_BN[0, :length])
        np.testing.assert_array_equal(together.duration_BN[row, :length], alone.duration_BN[0, :length])


def test_every_draw_is_one_that_the_grammar_allows_however_hot(model):
    network, _ = model
    decoded = run(model, jax.random.split(jax.random.key(5), 16), [50.0] * 16)
    tokenizer = NoteTokenizer(max_duration=4)
    for pitch, duration, length in zip(*decoded, strict=True):
        tokens = np.stack([pitch[:length], duration[:length]], axis=1)
        complete = np.flatnonzero(tokens[:, 1] > 0)
        whole = tokens[: complete[-1] + 1] if len(complete) else tokens[:0]
        slices = tokenizer.decode(whole)
        assert np.count_nonzero(whole[:, 0] != NoteTokenizer.REST) >= len(slices.pitch)
        assert network.grammar.durations()[tokens[:, 0], tokens[:, 1]].all()
        assert (tokens[:-1, 0] != END).all()


def test_temperature_nought_takes_the_likeliest():
    logits = jnp.array([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    for uniform in (0.0, 0.5, 0.999):
        assert sample(logits, jnp.zeros(2), jnp.full(2, uniform)).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_come_as_often_as_the_distribution_says(temperature):
    logits = jnp.array([0.3, -1.0, IMPOSSIBLE, 2.0, 0.0])
    count = 20_000
    uniform = jax.random.uniform(jax.random.key(3), (count,))
    draws = sample(jnp.tile(logits, (count, 1)), jnp.full(count, temperature), uniform)
    expected = np.asarray(jax.nn.softmax(logits / temperature)) * count
    found = np.bincount(draws, minlength=5)
    assert found[2] == 0
    possible = expected > 0
    chi_squared = ((found - expected)[possible] ** 2 / expected[possible]).sum()
    # Four possible ids leave three degrees of freedom: 16.3 is exceeded once in a thousand times.
    assert chi_squared < 16.3


def test_an_impossible_id_is_not_drawn_at_the_edges_of_the_uniform():
    logits = jnp.array([[IMPOSSIBLE, 0.0, IMPOSSIBLE]])
    for uniform in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        assert sample(logits, jnp.ones(1), jnp.full(1, uniform)).tolist() == [1]
