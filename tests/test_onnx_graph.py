"""A function as ONNX gives what it gives in JAX, primitive by primitive; what is not known is named."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from midigen_jax.errors import InputError
from midigen_jax.sample.onnx_graph import PRIMITIVES, to_onnx

FLOATS = np.array([[0.5, -1.25, 2.0, 3.75], [1.5, 0.25, -0.75, -2.0]], np.float32)
POSITIVE = np.abs(FLOATS)
INTS = np.array([[7, -5, 0, 3], [-8, 2, 9, 1]], np.int32)
BITS = np.array([[7, 2**31 + 5, 0, 2**32 - 1]], np.uint32)
PLACE = np.array([1, 0, 1], np.int32)
RING = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def sum_backwards(x):
    return lax.scan(lambda total, row: (total + row, total * row), jnp.zeros(4), x, reverse=True)


FUNCTIONS = {
    "arithmetic": (lambda x, y: (x + y, x - y, x * y, x / y, -x, abs(x), jnp.sign(x)), FLOATS, POSITIVE),
    "transcendental": (
        lambda x: (jnp.exp(x), jnp.tanh(x), jnp.sin(x), jnp.cos(x), jax.nn.sigmoid(x), lax.erf(x)),
        FLOATS,
    ),
    "powers": (lambda x: (jnp.log(x), jnp.sqrt(x), lax.rsqrt(x), x**3, jnp.square(x)), POSITIVE),
    "comparisons": (lambda x, y: (x < y, x <= y, x > y, x >= y, x == y, x != y), INTS, INTS[::-1].copy()),
    "the larger, the smaller": (
        lambda x, y: (jnp.maximum(x, y), jnp.minimum(x, y), lax.clamp(-2, x, 2)),
        INTS,
        INTS[::-1].copy(),
    ),
    "whole numbers": (lambda x: (x // 3, x % 3, lax.div(x, 3), lax.rem(x, 3), x >> 1), INTS),
    "logic": (lambda x, y: (x & y, x | y, x ^ y, ~x), INTS > 1, INTS < 3),
    "logic of bits": (lambda x: (x & 12, x | 12, x ^ 12, ~x, x >> 3), BITS),
    "choices": (
        lambda x, y: (jnp.where(x > 1, x, y), jnp.where(x > 1, x < y, x > y), jnp.where(x > 1, 5, x)),
        INTS,
        INTS[::-1].copy(),
    ),
    "choices of bits": (lambda x: jnp.where(x > 9, x, jnp.uint32(0)), BITS),
    "sums": (lambda x: (x.sum(axis=1), x.max(axis=0), x.min(), jnp.cumsum(x, axis=1)), FLOATS),
    "backwards": (lambda x: lax.cumsum(x, axis=1, reverse=True), INTS),
    "any, all": (lambda x: (x.any(axis=1), x.all(axis=0)), INTS > 1),
    "the place of the largest": (lambda x: (x.argmax(axis=1), x.argmin(axis=0)), FLOATS),
    "shapes": (
        lambda x: (x.T, x.reshape(4, 2), x[:, None], x[:1].squeeze(0), lax.expand_dims(x, [1])),
        FLOATS,
    ),
    "parts": (lambda x: (x[:, 1:3], x[:, ::2], *jnp.split(x, 2, axis=1)), FLOATS),
    "side by side": (
        lambda x, y: (jnp.concatenate([x, y], axis=1), jnp.stack([x, y], axis=1), jnp.tile(x, (2, 1))),
        FLOATS,
        POSITIVE,
    ),
    "nothing beside": (lambda x: jnp.concatenate([x, x[:, :0]], axis=1), FLOATS),
    "edges": (lambda x: jnp.pad(x, ((1, 0), (2, 3)), constant_values=9), FLOATS),
    "edges that are cut": (lambda x: lax.pad(x, 0.0, [(-1, 0, 0), (1, -2, 0)]), FLOATS),
    "dtypes": (lambda x: (x.astype(jnp.int32), x.astype(bool), (x > 0).astype(jnp.float32)), FLOATS),
    "products": (
        lambda x, y: (x @ y.T, jnp.einsum("ij,ij->i", x, y), jnp.einsum("ij,kj->kij", x, y), x[0] @ y[1]),
        FLOATS,
        POSITIVE,
    ),
    "products in batches": (lambda x: jnp.einsum("bhk,bgk->bhg", x, x + 1), RING),
    "look-ups": (lambda x, at: (x[at], x[:, at], x[at, :, at], x[at][:, ::2]), RING, PLACE),
    "look-ups along an axis": (lambda x, at: jnp.take_along_axis(x, at, axis=1), FLOATS, INTS % 4),
    "look-ups in batches": (lambda x, at: jax.vmap(lambda row, i: row[i])(x, at), RING, PLACE[:2]),
    "look-ups of bools": (lambda x, at: (x > 9)[at], RING, PLACE),
    "look-ups that find nothing": (
        lambda x, at: (
            x.at[at].get(mode="fill", fill_value=7),
            (x > 9).at[at].get(mode="fill"),
            x.astype(jnp.int32).at[at].get(mode="fill"),
            x.at[at].get(mode="clip"),
        ),
        RING,
        PLACE + 1,
    ),
    "a part from somewhere": (lambda x, at: lax.dynamic_slice(x, (at[0], 0), (1, 3)), FLOATS, PLACE),
    "a part that would reach beyond": (lambda x, at: lax.dynamic_slice(x, (at[0], 0), (2, 3)), FLOATS, PLACE),
    "writing": (
        lambda x, at, new: (x.at[at[0]].set(new), x.at[:, at[0]].set(new[:2]), x.at[at[0], at[1]].set(5)),
        RING,
        PLACE,
        RING[0],
    ),
    "writing beyond": (lambda x, at: x.at[at].set(0, mode="drop"), RING, PLACE[1:] + 1),
    "loops": (sum_backwards, FLOATS),
    "calls": (lambda x: (jax.nn.relu(x), jax.jit(jnp.sin)(x), jax.checkpoint(jnp.cos)(x)), FLOATS),
    "what changes no number": (
        lambda x: (lax.optimization_barrier(x), lax.stop_gradient(x), jnp.array(x, copy=True)),
        FLOATS,
    ),
    "what is chosen by platform": (
        lambda x: lax.platform_dependent(x, cpu=lambda x: x + 1, default=lambda x: x - 1),
        FLOATS,
    ),
    "what stands in order": (lambda x: jnp.searchsorted(x, 3, side="right", method="compare_all"), INTS[0]),
    "what depends on nothing": (lambda x: (jnp.arange(3) + 1, jnp.sort(jnp.array([3, 1])), x), FLOATS),
}


def by_name(function):
    """A function of arrays as one of named arrays, whose results have names too."""

    def named(**arrays):
        results = jax.tree.leaves(function(*arrays.values()))
        return {f"result{number}": result for number, result in enumerate(results)}

    return named


def arguments(arrays):
    return {f"array{number}": array for number, array in enumerate(arrays)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_in_both(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    function, *arrays = FUNCTIONS[name]
    ours = jax.jit(by_name(function))(**arguments(arrays))
    model = to_onnx(by_name(function), arguments(arrays), "tests")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    needed = {one.name for one in session.get_inputs()}
    theirs = session.run(
        list(ours), {key: array for key, array in arguments(arrays).items() if key in needed}
    )
    for mine, other in zip(ours.values(), theirs, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(other, mine, rtol=1e-5, atol=1e-6)  # where tanh and exp are others


def test_every_primitive_that_is_known_is_in_one_of_these_functions():
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            found.add(equation.primitive.name)
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
            ):
                if hasattr(inner, "eqns"):
                    walk(getattr(inner, "jaxpr", inner))

    for function, *arrays in FUNCTIONS.values():
        walk(jax.make_jaxpr(function)(*arrays).jaxpr)
    assert PRIMITIVES.keys() - found == set()


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (jnp.sort, "--onnx: no ONNX is known for the primitive sort; add it to"),
        (lambda x: lax.pad(x, 0.0, [(0, 0, 1), (0, 0, 0)]), "the primitive pad with gaps between"),
        (lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x), "the primitive while;"),
    ],
)
def test_what_is_not_known_is_named_in_a_line(function, line):
    with pytest.raises(InputError, match=line) as caught:
        to_onnx(by_name(function), arguments([FLOATS]), "tests")
    assert "\n" not in str(caught.value)


def test_equal_nodes_stand_once_and_what_no_result_needs_not_at_all():
    def function(x):
        unused = jnp.sin(x) @ jnp.ones((4, 1000))
        return jnp.tanh(x) + jnp.tanh(x), unused.shape[0] * jnp.tanh(x)

    graph = to_onnx(by_name(function), arguments([FLOATS]), "tests").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Tanh") == 1
    assert "MatMul" not in operators
    assert all(np.prod(constant.dims) < 10 for constant in graph.initializer)


def test_without_the_package_it_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"--onnx: onnx is not installed; pip install 'midigen-jax\[onnx\]'"):
        to_onnx(by_name(jnp.sin), arguments([FLOATS]), "tests")
