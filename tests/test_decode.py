"""The decode loop: rows on their own, however they are divided into calls; music that the rules allow."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import ContextConfig, ModelConfig
from midigen_jax.model.network import Network, init_params
from midigen_jax.sample import decode as decoding
from midigen_jax.sample import filters
from midigen_jax.sample.constraints import constraints
from midigen_jax.sample.decode import DecodeFlags, Prompt, Settings, decode, resume
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.train.distributed import data_mesh
from midigen_jax.vocab import END, START, note
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary

EVENTS = 24
# Voices where attention is multi-head.
VOCABULARIES = {"pooled": NoteVocabulary(max_duration=4), "multihead": VoiceVocabulary(2, max_duration=4)}
PLAIN, ALL = DecodeFlags(), DecodeFlags(filters=True, repetition=True)
TOLD = ContextConfig(
    place=True, meters=(5,), previous=True, lags=(1,), relative=(2, 7), intervals=True, slices=4, width=4
)


# Windows that are shorter than what is written: rings go round, sums let go.
@pytest.fixture(
    scope="module",
    params=[
        "pooled",
        pytest.param("pooled(window=5)", marks=pytest.mark.slow),
        "multihead(heads=2, window=5, values=events)",
    ],
)
def model(request):
    config = ModelConfig(
        pitch_embedding=4,
        duration_embedding=4,
        width=8,
        blocks=("lstm", request.param),
        context=ContextConfig() if request.param == "pooled" else TOLD,
    )
    network = Network(config, VOCABULARIES[request.param.partition("(")[0]])
    return network, jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(1)))


def settings_of(keys, temperatures, ticks=2**30, rules=None, **values):
    rows = len(keys)
    heat = jnp.array(temperatures, jnp.float32)
    defaults = {"top_k": jnp.int32(0), "top_p": 1.0, "min_p": 0.0, "repetition": 1.0} | values
    others = [jnp.broadcast_to(jnp.asarray(value), rows) for value in defaults.values()]
    params = dict.fromkeys(("pitch", "duration"), SamplingParams(heat, *others))
    begin = jnp.zeros(rows, jnp.int32)
    return Settings(keys, params, begin, jnp.full(rows, ticks, jnp.int32), rules)


def beginning(rows):
    nothing = jnp.zeros((rows, 1), jnp.int32)
    return Prompt({"pitch": nothing + START, "duration": nothing}, jnp.ones((rows, 1), bool))


def run(model, keys, temperatures, events=EVENTS, flags=PLAIN, **values):
    network, params = model
    settings = settings_of(keys, temperatures, **values)
    prompt = beginning(len(keys))
    return jax.device_get(decode(network, params, prompt, settings, events=events, flags=flags)[1])


def same(some, others, rows):
    """Are these rows of the one the rows 0, 1 … of the other?"""
    for row, other in enumerate(rows):
        length = some.length_B[other]
        assert others.length_B[row] == length
        assert some.events.keys() == others.events.keys() == {"pitch", "duration"}
        for stream, ids in some.events.items():
            np.testing.assert_array_equal(ids[other, :length], others.events[stream][row, :length])


def in_turn(calls):
    """What calls wrote one after another, as if one had."""
    length_B = sum(np.asarray(decoded.length_B) for decoded in calls)

    def joined(stream):
        rows = [
            np.concatenate([decoded.events[stream][row, : decoded.length_B[row]] for decoded in calls])
            for row in range(len(length_B))
        ]
        return np.stack([np.pad(ids, (0, length_B.max() - len(ids))) for ids in rows])

    return decoding.Decoded({stream: joined(stream) for stream in calls[0].events}, length_B)


@pytest.mark.parametrize("flags", [PLAIN, ALL], ids=["plain", "filtered"])
def test_a_row_depends_on_its_own_key_and_settings_alone(model, flags):
    keys, heat = jax.random.split(jax.random.key(0), 4), [0.0, 0.5, 1.0, 2.0]
    values = {
        "top_k": [3, 0, 9, 0],
        "top_p": [1.0, 0.7, 1.0, 0.9],
        "min_p": [0.0] * 4,
        "repetition": [1.5] * 4,
    }
    sweeps = {
        name: np.array(value, np.int32 if name == "top_k" else np.float32) for name, value in values.items()
    }
    together = run(model, keys, heat, flags=flags, **sweeps)
    for row in range(4):
        own = {name: value[row : row + 1] for name, value in sweeps.items()}
        same(together, run(model, keys[row : row + 1], heat[row : row + 1], flags=flags, **own), [row])


def test_the_program_for_tpus_writes_the_same(model, monkeypatch):
    """One row is written as eight there; the kernel that draws is interpreted here."""
    rows = 3 if model[0].config.blocks[-1] == "pooled" else 1
    monkeypatch.setattr(filters, "draw_by_kernel", partial(filters.draw_by_kernel, interpret=True))
    network, params = model
    keys = jax.random.split(jax.random.key(5), rows)
    rules = constraints(network.vocabulary, repeats=1, bar=6)
    values = {"ticks": 30, "rules": rules, "top_k": np.int32(9), "top_p": 0.8, "repetition": 1.3}
    settings = settings_of(keys, np.full(rows, 1.5, np.float32), **values)
    tpu = ALL._replace(tpu=True)
    known = decode(network, params, beginning(rows), settings, events=9, flags=ALL)[1]
    state, first = decode(network, params, beginning(rows), settings, events=4, flags=tpu)
    _, rest = resume(network, params, state, settings, events=5, flags=tpu)
    assert known.length_B.max() > 4
    same(known, in_turn([first, rest]), range(rows))


def test_calls_together_write_what_one_writes(model):
    network, params = model
    keys, heat = jax.random.split(jax.random.key(2), 3), [0.7, 1.0, 1.3]
    rules = constraints(network.vocabulary, repeats=1, bar=6)
    settings = settings_of(keys, heat, ticks=30, rules=rules, repetition=1.3)
    whole = decode(network, params, beginning(3), settings, events=EVENTS, flags=ALL)[1]
    state, first = decode(network, params, beginning(3), settings, events=1, flags=ALL)
    pieces = [first]
    for events in (10, 10, 3):
        state, decoded = resume(network, params, state, settings, events=events, flags=ALL)
        pieces.append(decoded)
    same(whole, in_turn(pieces), range(3))


def test_rows_that_began_at_different_times_go_on_together_as_each_would_alone(model):
    network, params = model
    keys, heat, counts = jax.random.split(jax.random.key(6), 2), [0.8, 1.2], (3, 7)
    own = [slice(row, row + 1) for row in range(2)]
    begun = [
        decode(network, params, beginning(1), settings_of(keys[one], heat[one]), events=count)
        for one, count in zip(own, counts, strict=True)
    ]
    states = [state._replace(projections=None) for state, _ in begun]
    both = jax.tree.map(lambda *rows: jnp.concatenate(rows), *states)
    both = both._replace(projections=begun[0][0].projections)
    _, rest = resume(network, params, both, settings_of(keys, heat), events=EVENTS - counts[1])
    for row, (_, first) in enumerate(begun):
        alone = run(model, keys[own[row]], heat[own[row]])
        later = jax.tree.map(lambda part, row=row: part[row : row + 1], rest)
        for name, ids in in_turn([first, later]).events.items():
            np.testing.assert_array_equal(ids[0], alone.events[name][0, : ids.shape[1]])


def test_a_row_ends_when_its_ticks_are_written(model):
    decoded = run(model, jax.random.split(jax.random.key(3), 4), [1.0] * 4, ticks=10, events=200)
    columns = decoded.events["duration"], decoded.events["pitch"], decoded.length_B
    for duration, pitch, length in zip(*columns, strict=True):
        ticks = np.cumsum(duration[:length])
        assert (ticks[:-1] < 10).all()
        assert ticks[-1] >= 10 or pitch[length - 1] == END


def test_sweeping_settings_compiles_nothing_again(model):
    keys = jax.random.split(jax.random.key(0), 2)
    run(model, keys, [1.0, 0.5], flags=ALL, top_k=np.int32(3))
    before = decode._cache_size()
    run(model, keys, [0.0, 2.0], flags=ALL, top_k=np.int32(7), top_p=0.5, min_p=0.1, repetition=2.0)
    assert decode._cache_size() == before


def test_no_loop_sorts(model):
    network, params = model
    settings = settings_of(jax.random.split(jax.random.key(0), 2), [1.0, 1.0])
    lowered = decode.lower(network, params, beginning(2), settings, events=4, flags=ALL)
    assert not re.search(r"stablehlo\.sort|chlo\.top_k|TopK", lowered.as_text())


def test_a_prompt_that_is_padded_is_continued_as_it_is_alone(model):
    """The longer prompt holds more events than a window of 5."""
    network, params = model
    attacked = note.ATTACKED + 60
    prompts = [[(START, 0), *[(attacked + i, 1 + i % 3) for i in range(7)]], [(START, 0), (attacked, 2)]]
    padding = [(END, 3)] * (len(prompts[0]) - len(prompts[1]))
    keys, heat = jax.random.split(jax.random.key(4), 2), jnp.ones(2)

    def written(prompts, keys, lengths):
        tokens = jnp.array(prompts, jnp.int32)
        mask = jnp.arange(tokens.shape[1])[None] < jnp.array(lengths)[:, None]
        prompt = Prompt({"pitch": tokens[..., 0], "duration": tokens[..., 1]}, mask)
        settings = settings_of(keys, heat[: len(keys)])
        return jax.device_get(decode(network, params, prompt, settings, events=EVENTS)[1])

    together = written([prompts[0], prompts[1] + padding], keys, [8, 2])
    for row, prompt in enumerate(prompts):
        same(together, written([prompt], keys[row : row + 1], [len(prompt)]), [row])


@pytest.mark.parametrize("model", ["pooled(window=5)"], indirect=True)
@pytest.mark.parametrize("prompts", [1, 4], ids=["one prompt", "own prompts"])
def test_devices_that_share_rows_write_what_one_writes(model, prompts):
    network, params = model
    mesh = data_mesh(4)
    assert mesh.size == 2
    rules = constraints(network.vocabulary, repeats=1, bar=6)
    settings = settings_of(
        jax.random.split(jax.random.key(9), 4), [0.3, 1.0, 1.3, 2.0], ticks=20, rules=rules
    )
    given = (network, params, beginning(prompts), settings)
    whole = jax.device_get(decode(*given, events=EVENTS, flags=ALL)[1])
    state, first = jax.device_get(decode(*given, events=9, flags=ALL, mesh=mesh))
    _, rest = jax.device_get(resume(*given[:2], state, settings, events=EVENTS - 9, flags=ALL, mesh=mesh))
    same(whole, in_turn([first, rest]), range(4))


def test_a_long_prompt_is_read_in_chunks(model, monkeypatch):
    network, params = model
    pitch = note.ATTACKED + 60 + np.arange(8) % 5
    lengths = np.array([[8], [3], [6]])
    ids = {"pitch": pitch, "duration": 1 + np.arange(8) % 4}
    events = {stream: jnp.asarray(np.tile(ids_T, (3, 1))) for stream, ids_T in ids.items()}
    prompt = Prompt(events, jnp.arange(8)[None] < lengths)
    settings = settings_of(jax.random.split(jax.random.key(8), 3), [1.0] * 3)
    found = []
    for size in (1024, 3):
        monkeypatch.setattr(decoding, "_CHUNK", size)
        decode.clear_cache()
        found.append(jax.device_get(decode(network, params, prompt, settings, events=EVENTS)[1]))
    decode.clear_cache()
    same(found[0], found[1], [0, 1, 2])


def test_every_draw_is_one_that_the_rules_allow_however_hot(model):
    network, _ = model
    decoded = run(model, jax.random.split(jax.random.key(5), 16), [50.0] * 16)
    rules, begun = network.vocabulary.rules, beginning(16).events
    read = {
        stream: jnp.concatenate([begun[stream], ids[:, :-1]], axis=1)
        for stream, ids in decoded.events.items()
    }
    mask_BT = jnp.ones(read["pitch"].shape, bool)
    _, after = rules.follow(rules.initial_carry(16), read, mask_BT)
    written_BT = np.arange(mask_BT.shape[1]) < decoded.length_B[:, None]
    earlier = {}
    for stream, _ in network.vocabulary.streams:
        allowed = np.asarray(rules.allowed(after, rules.limits(), stream, earlier))
        allowed = np.broadcast_to(allowed, (*mask_BT.shape, allowed.shape[-1]))
        drawn = np.take_along_axis(allowed, decoded.events[stream][..., None], axis=-1)[..., 0]
        assert drawn[written_BT].all()
        earlier = earlier | {stream: decoded.events[stream]}
    for pitch, length in zip(decoded.events["pitch"], decoded.length_B, strict=True):
        assert (pitch[: length - 1] != END).all()


def test_constraints_that_ask_for_nothing_leave_all_as_it_is_after_an_upbeat_too(model):
    network, params = model
    plain = settings_of(jax.random.split(jax.random.key(6), 8), [1.0] * 8)._replace(begin_B=jnp.full(8, -1))
    asked = plain._replace(constraints=constraints(network.vocabulary))
    found = [
        jax.device_get(decode(network, params, beginning(8), settings, events=EVENTS)[1])
        for settings in (plain, asked)
    ]
    same(found[0], found[1], range(8))
