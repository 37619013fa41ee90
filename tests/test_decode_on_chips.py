"""The decode loop, compiled for a TPU that is not there: how much one event of it asks of the chip."""

import os
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from midigen_jax.config import ModelConfig
from midigen_jax.model.network import Network, init_params
from midigen_jax.sample.decode import DecodeFlags, Prompt, Settings, decode
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.vocab.note import NoteVocabulary

pytest.importorskip("libtpu", reason="libtpu, which compiles for TPUs, is not installed")

NO_KERNELS = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "copy-start", "copy-done"}
INSTRUCTION = re.compile(r"^  (?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(")


@pytest.fixture(scope="module")
def chip():
    with pytest.MonkeyPatch.context() as patch:
        # No TPU is asked for, so this process need not be the only one.
        for name, value in {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "true"}.items():
            patch.setenv(name, os.environ.get(name, value))
        try:
            known = topologies.get_topology_desc("v5e:1x1", "tpu", chips_per_host_bounds=(1, 1, 1))
        except Exception as error:
            pytest.skip(f"libtpu describes no TPU here: {error}")
        yield known.devices[0]


def kernels_of_loops(chip, rows, filters):
    """Kernels in the body of the decode loop, then in those of loops in it; vocabularies of usual size."""
    config = ModelConfig(pitch_embedding=8, duration_embedding=8, width=16, blocks=("lstm", "pooled"))
    network = Network(config, NoteVocabulary())
    number, whole = jax.ShapeDtypeStruct((rows,), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    streams = [name for name, _ in network.vocabulary.streams]
    sampling = dict.fromkeys(streams, SamplingParams(number, whole, number, number, number))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    event = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    given = (
        jax.eval_shape(partial(init_params, network), jax.random.key(0)),
        Prompt(dict.fromkeys(streams, event), jax.ShapeDtypeStruct((1, 1), jnp.bool_)),
        Settings(keys, sampling, whole, whole),
    )
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(chip)), given
    )
    flags = DecodeFlags(filters=filters, tpu=True)
    text = decode.lower(network, *placed, events=64, flags=flags).compile().as_text()
    bodies = set(re.findall(r"\bbody=%?([\w.\-]+)", text))
    counts, current = {}, ""
    for line in text.splitlines():
        named = re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        current = named[1] if named else current
        instruction = INSTRUCTION.match(line)
        if current in bodies and instruction and instruction[1] not in NO_KERNELS:
            counts[current] = counts.get(current, 0) + 1
    return sorted(counts.values(), reverse=True)


def test_one_row_takes_no_more_kernels_an_event_than_eight_and_filters_few_more(chip):
    one = kernels_of_loops(chip, 1, filters=False)[0]
    eight = kernels_of_loops(chip, 8, filters=False)[0]
    filtered, *again = kernels_of_loops(chip, 8, filters=True)
    assert one <= eight + 4
    assert eight <= 60
    # An id is drawn by one kernel, with filters or without, and drawn again inside it.
    assert filtered <= eight + 4
    assert not again
