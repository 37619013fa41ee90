"""The laws that every block keeps, as one test: `verify_block(MyBlock(...))` in a test of one's own."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from midigen_jax.model.blocks import check_block
from midigen_jax.model.blocks.base import Block, Step

PLATFORMS = ("cpu", "cuda", "tpu")
DTYPES = ("float32", "bfloat16")
_ROWS, _TIMES = 3, 7
_CUTS = (1, 2, 4)  # steps, and chunks of several lengths
# Sums over time are taken in another order when a sequence is cut; float32 keeps about seven digits.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


def verify_block(block: Block, seed: int = 0) -> None:
    """Raises AssertionError, which names it, for the first law that `block` breaks; says nothing if all hold.

    No output looks ahead. Reading at once, step by step and in any chunks is the same, in outputs, carries
    and gradients. What the mask hides is invisible, even if it is NaN. No row sees another one. It lowers for
    CPUs, CUDA and TPUs, in float32 and bfloat16. `matmuls` are within a factor of two of its products.
    Random weights and events come from `seed`; small sizes do (a width of 8). Takes 5 to 20 seconds. Raises
    InputError for what is no block at all.
    """
    check_block(type(block).__name__, block)
    keys = jax.random.split(jax.random.key(seed), 6)
    x_BTD = jax.random.normal(keys[0], (_ROWS, _TIMES, block.inputs))
    ids = [jax.random.randint(keys[1], (_ROWS, _TIMES), 0, size) for _, size in block.streams]
    ticks_BT = jax.random.randint(keys[2], (_ROWS, _TIMES), 0, 7)
    events = {name: ids_BT for (name, _), ids_BT in zip(block.streams, ids, strict=True)}
    all_seen = Step(events, ticks_BT, jnp.ones((_ROWS, _TIMES), bool))
    variables = block.init(keys[3], block.initial_carry(_ROWS), x_BTD, all_seen)
    # Larger than fresh weights, so that a mistake shows.
    leaves, tree = jax.tree.flatten(variables)
    noise = jax.random.split(keys[4], len(leaves))
    moved = [leaf + 0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(noise, leaves, strict=True)]
    variables = jax.tree.unflatten(tree, moved)
    _never_looks_ahead(block, variables, x_BTD, all_seen)
    _same_in_chunks(block, variables, x_BTD, all_seen, keys[5])
    _sees_nothing_hidden(block, variables, x_BTD, all_seen)
    _keeps_rows_apart(block, variables, x_BTD, all_seen)
    _lowers(block, variables, x_BTD, all_seen)
    _costs_what_it_says(block, variables, x_BTD, all_seen)


def _run(block: Block, variables: Any, x_BTD: Array, now: Step, cuts: tuple[int, ...] = ()) -> Any:
    """The carry after the sequence and the outputs, read in one piece or cut."""
    carry: Any = block.initial_carry(len(x_BTD))
    outputs: list[Any] = []
    for first, last in zip((0, *cuts), (*cuts, x_BTD.shape[1]), strict=True):
        part = jax.tree.map(lambda leaf_BT, a=first, b=last: leaf_BT[:, a:b], now)
        carry, y_BTD = block.apply(variables, carry, x_BTD[:, first:last], part)
        outputs.append(y_BTD)
    return carry, jnp.concatenate(outputs, axis=1)


def _same_in_chunks(block: Block, variables: Any, x_BTD: Array, now: Step, key: Array) -> None:
    weight_BTD = jax.random.normal(key, (_ROWS, _TIMES, block.width))

    def loss(variables: Any, x_BTD: Array, cuts: tuple[int, ...]) -> tuple[Array, Any]:
        after, y_BTD = _run(block, variables, x_BTD, now, cuts)
        return (y_BTD * weight_BTD).sum(), (after, y_BTD)

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (_, whole), whole_slope = gradient(variables, x_BTD, ())
    (_, found), slope = gradient(variables, x_BTD, _CUTS)
    _close(found[1], whole[1], "its outputs are others when a sequence is read in chunks")
    _close(found[0], whole[0], "its carry is another when a sequence is read in chunks")
    _close(slope, whole_slope, "its gradients are others when a sequence is read in chunks")


def _never_looks_ahead(block: Block, variables: Any, x_BTD: Array, now: Step) -> None:
    def output(x_BTD: Array, time: Array) -> Array:
        _, y_BTD = _run(block, variables, x_BTD, now)
        return jnp.sin(y_BTD[:, time]).sum()

    gradient = jax.jit(jax.grad(output))
    for time in (0, _TIMES // 2):
        slope_BTD = gradient(x_BTD, time)
        assert not slope_BTD[:, time + 1 :].any(), "its output at a time depends on later input"


def _sees_nothing_hidden(block: Block, variables: Any, x_BTD: Array, now: Step) -> None:
    mask_BT = jnp.arange(_TIMES)[None] < jnp.array([_TIMES, 4, 0])[:, None]
    hidden = now._replace(mask_BT=mask_BT)

    def loss(variables: Any, x_BTD: Array) -> tuple[Array, Any]:
        after, y_BTD = _run(block, variables, x_BTD, hidden)
        y_BTD = jnp.where(mask_BT[..., None], y_BTD, 0)
        return jnp.sin(y_BTD).sum(), (after, y_BTD)

    slope = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    zero, nan = (slope(variables, jnp.where(mask_BT[..., None], x_BTD, filler)) for filler in (0.0, jnp.nan))
    words = "what the mask hides shows, in its outputs, its carry or its gradients"
    _close(nan, zero, words)
    fewer = jax.tree.map(lambda leaf_BT: leaf_BT[1:2, :4], (x_BTD, now))
    carry, padded_BTD = zero[0][1]
    alone = _run(block, variables, *fewer)
    _close((jax.tree.map(lambda leaf: leaf[1:2], carry), padded_BTD[1:2, :4]), alone, words)


def _keeps_rows_apart(block: Block, variables: Any, x_BTD: Array, now: Step) -> None:
    _, together = _run(block, variables, x_BTD, now)
    _, alone = _run(block, variables, *jax.tree.map(lambda leaf_BT: leaf_BT[:1], (x_BTD, now)))
    _close(together[:1], alone, "its outputs for a row depend on other rows")


def _lowers(block: Block, variables: Any, x_BTD: Array, now: Step) -> None:
    for dtype in DTYPES:
        typed = block.clone(compute_dtype=dtype)

        def loss(variables: Any, x_BTD: Array, now: Step, typed: Block = typed) -> Array:
            return _run(typed, variables, x_BTD, now)[1].sum()

        traced = jax.jit(jax.grad(loss)).trace(variables, x_BTD, now)
        for platform in PLATFORMS:
            try:
                traced.lower(lowering_platforms=(platform,))
            except Exception as error:
                raise AssertionError(f"it does not lower for {platform} in {dtype}: {error}") from error


def _costs_what_it_says(block: Block, variables: Any, x_BTD: Array, now: Step) -> None:
    jaxpr = jax.make_jaxpr(lambda *given: _run(block, *given))(variables, x_BTD, now)
    least, most = _products(jaxpr.jaxpr)
    said = sum(product.flops for product in block.matmuls(_ROWS, _TIMES))
    within = least / 2 <= said <= 2 * most
    assert within, f"its matmuls say {said} operations where its products have {least} to {most}"


def _products(jaxpr: Any) -> tuple[int, int]:
    """Operations of the matrix products in a program, the least and the most of its branches."""
    least = most = 0
    for step in jaxpr.eqns:
        inner = [
            getattr(part, "jaxpr", part)
            for value in step.params.values()
            for part in (value if isinstance(value, tuple | list) else [value])
            if hasattr(getattr(part, "jaxpr", part), "eqns")
        ]
        found = [_products(part) for part in inner]
        if step.primitive.name == "dot_general":
            contracted = step.params["dimension_numbers"][0][0]
            size = math.prod(step.invars[0].aval.shape[axis] for axis in contracted)
            found.append((2 * size * math.prod(step.outvars[0].aval.shape),) * 2)
        if step.primitive.name == "cond":  # one of its branches runs
            found = [(min(low for low, _ in found), max(high for _, high in found))]
        times = step.params["length"] if step.primitive.name == "scan" else 1
        least += times * sum(low for low, _ in found)
        most += times * sum(high for _, high in found)
    return least, most


def _close(found: Any, expected: Any, words: str) -> None:
    def same(one: Array, other: Array) -> None:
        np.testing.assert_allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE, err_msg=words)

    jax.tree.map(same, found, expected)
