"""A function of JAX arrays as an ONNX model: each primitive of its jaxpr becomes a node or a few.

In: a function, examples of its arguments, names. Out: a model whose shapes are those of the examples, and
whose constants are the arrays that the function closed over (weights, say).

What depends on no argument is computed here, by JAX. What is chosen by platform is what a CPU runs. Calls are
written out, and so are scans, step by step. Equal nodes stand once, and what no output needs not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.lax import GatherScatterMode

from midigen_jax.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

_OPSET, _IR = 18, 8  # of 2022: the first ones that know all the operators below

Value = str | np.ndarray  # the name of a result, or what is known already
Shape = tuple[int, ...]


def to_onnx(
    function: Callable[..., Mapping[str, Any]], inputs: Mapping[str, Any], producer: str
) -> "ModelProto":
    """The model of `function(**inputs)`, a dict of arrays; inputs and outputs have the names of the dicts.

    `inputs` are examples: their shapes and dtypes count. Raises InputError for a primitive that is not known
    here, and where the package `onnx` is missing.
    """
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError:
        raise InputError("--onnx: onnx is not installed; pip install 'midigen-jax[onnx]'") from None
    names = list(inputs)
    closed, shapes = jax.make_jaxpr(
        lambda *values: function(**dict(zip(names, values, strict=True))), return_shape=True
    )(*inputs.values())
    graph = _Graph()
    found = graph.write(closed.jaxpr, closed.consts, names)
    # JAX sorts the names of a dict.
    results = {name: graph.named(value, name) for name, value in zip(sorted(shapes), found, strict=True)}
    nodes, constants = graph.needed(results.values())

    def infos(arrays: Mapping[str, Any]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, _number(array.dtype), array.shape)
            for name, array in arrays.items()
        ]

    written = helper.make_graph(
        [
            helper.make_node(node.operator, node.inputs, node.outputs, **dict(node.attributes))
            for node in nodes
        ],
        "step",
        infos(inputs),
        infos(shapes),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(written, opset_imports=opset, ir_version=_IR, producer_name=producer)
    checker.check_model(model)
    return model


class _Node(NamedTuple):
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


class _Graph:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._results: dict[tuple, tuple[str, ...]] = {}  # of the nodes that are there already
        self._constants: dict[str, np.ndarray] = {}
        self._names: dict[tuple, str] = {}  # of the constants

    def write(self, jaxpr: Any, constants: Sequence[Any], given: Sequence[Value]) -> list[Value]:
        """Add the equations of a jaxpr; returns its results."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
        values |= dict(zip(jaxpr.invars, given, strict=True))

        def of(variable: Any) -> Value:
            if hasattr(variable, "val"):  # a literal
                return np.asarray(variable.val, variable.aval.dtype)
            return values[variable]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [of(variable) for variable in equation.invars])
            values |= dict(zip(equation.outvars, results, strict=True))
        return [of(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Value]) -> Sequence[Value]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = params[_CALLS[name]]
            return self.write(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        if name == "platform_index":
            return [np.array([_is_cpu(names) for names in params["platforms"]].index(True))]
        if name == "cond" and not isinstance(given[0], str):
            branch = params["branches"][int(given[0])]
            return self.write(branch.jaxpr, branch.consts, given[1:])
        if name == "scan":
            return self._scan(params, given)
        if not any(isinstance(value, str) for value in given):
            known = equation.primitive.bind(*given, **params)
            return [np.asarray(one) for one in (known if equation.primitive.multiple_results else [known])]
        if name not in PRIMITIVES:
            raise InputError(f"--onnx: no ONNX is known for the primitive {name}; add it to {__name__}")
        written = PRIMITIVES[name](self, equation, *given)
        return written if isinstance(written, list) else [written]

    def _scan(self, params: Mapping[str, Any], given: list[Value]) -> list[Value]:
        inner, constants, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
        shared, carry = given[:constants], given[constants : constants + carried]
        over, length = given[constants + carried :], params["length"]
        shapes = [var.aval.shape for var in inner.jaxpr.invars[constants + carried :]]
        results: list[list[Value]] = [[] for _ in inner.jaxpr.outvars[carried:]]
        for step in reversed(range(length)) if params["reverse"] else range(length):
            now = [
                self.reshaped(self.part(whole, 0, step, step + 1), shape)
                for whole, shape in zip(over, shapes, strict=True)
            ]
            found = self.write(inner.jaxpr, inner.consts, [*shared, *carry, *now])
            carry = found[:carried]
            for times, value in zip(results, found[carried:], strict=True):
                times.insert(0 if params["reverse"] else step, value)
        sizes = [var.aval.shape for var in inner.jaxpr.outvars[carried:]]
        return carry + [
            self.joined([self.reshaped(value, (1, *size)) for value in times], 0)
            for times, size in zip(results, sizes, strict=True)
        ]

    def add(self, operator: str, *given: Value, outputs: int = 1, **attributes: Any) -> str:
        """The first result of a node."""
        return self.several(operator, *given, outputs=outputs, **attributes)[0]

    def several(self, operator: str, *given: Value, outputs: int, **attributes: Any) -> tuple[str, ...]:
        """All results of a node, which is added unless there is one like it."""
        inputs = tuple(self._named(value) for value in given)
        key = operator, inputs, tuple(sorted(attributes.items()))
        if key not in self._results:
            names = tuple(f"{operator}_{len(self._nodes)}_{place}" for place in range(outputs))
            self._nodes.append(_Node(operator, inputs, names, key[2]))
            self._results[key] = names
        return self._results[key]

    def _named(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        key = array.tobytes(), array.dtype, array.shape
        name = self._names.setdefault(key, f"constant_{len(self._names)}")
        self._constants[name] = array
        return name

    def named(self, value: Value, name: str) -> str:
        """The same under this name, as a result of the whole graph."""
        self._nodes.append(_Node("Identity", (self._named(value),), (name,), ()))
        return name

    def needed(self, results: Any) -> tuple[list[_Node], dict[str, np.ndarray]]:
        """The nodes and the constants that these results need."""
        wanted, nodes = set(results), []
        for node in reversed(self._nodes):
            if wanted.intersection(node.outputs):
                nodes.append(node)
                wanted.update(node.inputs)
        return nodes[::-1], {name: array for name, array in self._constants.items() if name in wanted}

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """The same numbers in another shape."""
        if isinstance(value, str):
            return self.add("Reshape", value, _ints(shape), allowzero=1)
        return np.reshape(value, shape)

    def turned(self, value: Value, order: Sequence[int]) -> Value:
        """The same with its axes in this order."""
        if list(order) == list(range(len(order))):
            return value
        if isinstance(value, str):
            return self.add("Transpose", value, perm=tuple(order))
        return np.transpose(value, order)

    def part(self, value: Value, axis: int, begin: int, end: int) -> Value:
        """The numbers from `begin` up to `end` of an axis."""
        if isinstance(value, str):
            return self.add("Slice", value, _ints([begin]), _ints([end]), _ints([axis]))
        return np.take(value, range(begin, end), axis)

    def joined(self, parts: Sequence[Value], axis: int) -> Value:
        """Values side by side."""
        return self.add("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def cast(self, value: Value, dtype: Any) -> str:
        """The same as another dtype."""
        return self.add("Cast", value, to=_number(dtype))


def _is_cpu(platforms: tuple[str, ...] | None) -> bool:
    return platforms is None or "cpu" in platforms


def _number(dtype: Any) -> int:
    """ONNX's number of a dtype."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _ints(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _shape(variable: Any) -> Shape:
    return tuple(variable.aval.shape)


def _unsupported(equation: Any, why: str) -> InputError:
    return InputError(f"--onnx: no ONNX is known for the primitive {equation.primitive.name} {why}")


Write = Callable[..., Value | list[Value]]
"""Of a graph, an equation and its inputs: its result, or a list of them."""


def _same(operator: str, **attributes: Any) -> Write:
    """An operator that does as the primitive does."""
    return lambda graph, equation, *given: graph.add(operator, *given, **attributes)


def _logical(on_bools: str, on_ints: str) -> Write:
    def write(graph: _Graph, equation: Any, *given: Value) -> Value:
        is_bool = equation.invars[0].aval.dtype == bool
        return graph.add(on_bools if is_bool else on_ints, *given)

    return write


def _ne(graph: _Graph, equation: Any, left: Value, right: Value) -> Value:
    return graph.add("Not", graph.add("Equal", left, right))


def _select(graph: _Graph, equation: Any, which: Value, *cases: Value) -> Value:
    if equation.invars[0].aval.dtype != bool:
        raise _unsupported(equation, "of more than two cases")
    return _where(graph, equation.outvars[0].aval.dtype, which, cases[1], cases[0])


def _where(graph: _Graph, dtype: Any, which: Value, yes: Value, no: Value) -> Value:
    if dtype in (np.float32, np.int32, np.int64):
        return graph.add("Where", which, yes, no)
    # No runtime has `Where` of bools, and that of browsers none of unsigned numbers.
    chosen = graph.add("Where", which, graph.cast(yes, np.int64), graph.cast(no, np.int64))
    return graph.cast(chosen, dtype)


def _reduce(operator: str) -> Write:
    def write(graph: _Graph, equation: Any, value: Value) -> Value:
        axes = _ints(equation.params["axes"])
        if equation.outvars[0].aval.dtype != bool:
            return graph.add(operator, value, axes, keepdims=0)
        found = graph.add(operator, graph.cast(value, np.int32), axes, keepdims=0)
        return graph.cast(found, bool)

    return write


def _arg(operator: str) -> Write:
    def write(graph: _Graph, equation: Any, value: Value) -> Value:
        (axis,) = equation.params["axes"]
        found = graph.add(operator, value, axis=axis, keepdims=0)
        return graph.cast(found, equation.params["index_dtype"])

    return write


def _convert(graph: _Graph, equation: Any, value: Value) -> Value:
    if equation.invars[0].aval.dtype == equation.params["new_dtype"]:
        return value  # only its type promotion is another
    return graph.cast(value, equation.params["new_dtype"])


def _reshape(graph: _Graph, equation: Any, value: Value) -> Value:
    return graph.reshaped(value, _shape(equation.outvars[0]))


def _broadcast(graph: _Graph, equation: Any, value: Value) -> Value:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = dict(zip(places, _shape(equation.invars[0]), strict=True))
    beside = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
    value = graph.reshaped(value, beside)
    return value if beside == tuple(shape) else graph.add("Expand", value, _ints(shape))


def _transpose(graph: _Graph, equation: Any, value: Value) -> Value:
    return graph.turned(value, equation.params["permutation"])


def _slice(graph: _Graph, equation: Any, value: Value) -> Value:
    begin, end, steps = (equation.params[name] for name in ("start_indices", "limit_indices", "strides"))
    axes = range(len(begin))
    return graph.add("Slice", value, *map(_ints, (begin, end, axes, steps or [1] * len(begin))))


def _dynamic_slice(graph: _Graph, equation: Any, value: Value, *starts: Value) -> Value:
    shape, sizes = _shape(equation.invars[0]), equation.params["slice_sizes"]
    begin = graph.joined([graph.reshaped(start, (1,)) for start in starts], 0)
    last = np.subtract(shape, sizes).astype(np.int32)
    begin = graph.add("Min", graph.add("Max", begin, np.zeros_like(last)), last)
    end = graph.add("Add", begin, np.array(sizes, np.int32))
    return graph.add("Slice", value, begin, end, np.arange(len(sizes), dtype=np.int32))


def _pad(graph: _Graph, equation: Any, value: Value, filler: Value) -> Value:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between):
        raise _unsupported(equation, "with gaps between")
    return graph.add("Pad", value, _ints([*before, *after]), filler)


def _concatenate(graph: _Graph, equation: Any, *parts: Value) -> Value:
    sizes = [_shape(variable)[equation.params["dimension"]] for variable in equation.invars]
    there = [part for part, size in zip(parts, sizes, strict=True) if size]
    return graph.joined(there, equation.params["dimension"])


def _stack(graph: _Graph, equation: Any, *parts: Value) -> Value:
    axis, shape = equation.params["axis"], list(_shape(equation.outvars[0]))
    shape[axis] = 1
    return graph.joined([graph.reshaped(part, shape) for part in parts], axis)


def _split(graph: _Graph, equation: Any, value: Value) -> list[Value]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    return list(graph.several("Split", value, _ints(sizes), outputs=len(sizes), axis=axis))


def _cumsum(graph: _Graph, equation: Any, value: Value) -> Value:
    axis, reverse = np.array(equation.params["axis"]), int(equation.params["reverse"])
    return graph.add("CumSum", value, axis, reverse=reverse)


def _clamp(graph: _Graph, equation: Any, least: Value, value: Value, most: Value) -> Value:
    return graph.add("Min", graph.add("Max", value, least), most)


def _power(graph: _Graph, equation: Any, value: Value) -> Value:
    return graph.add("Pow", value, np.asarray(equation.params["y"], equation.invars[0].aval.dtype))


def _shift_arithmetic(graph: _Graph, equation: Any, value: Value, places: Value) -> Value:
    """A division that rounds down; ONNX shifts no signed numbers, and its own division rounds towards 0."""
    if isinstance(places, str):
        raise _unsupported(equation, "by places that are not known before")
    unit = np.left_shift(np.ones_like(places), places)
    return graph.add("Div", graph.add("Sub", value, graph.add("Mod", value, unit)), unit)


def _dot(graph: _Graph, equation: Any, left: Value, right: Value) -> Value:
    (sum_left, sum_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    sides = []
    for value, variable, batch, summed, sums_last in (
        (left, equation.invars[0], batch_left, sum_left, True),
        (right, equation.invars[1], batch_right, sum_right, False),
    ):
        shape = _shape(variable)
        free = [axis for axis in range(len(shape)) if axis not in (*batch, *summed)]
        halves = (free, summed) if sums_last else (summed, free)
        flat = [int(np.prod([shape[axis] for axis in axes], dtype=int)) for axes in halves]
        turned = graph.turned(value, [*batch, *halves[0], *halves[1]])
        sides.append(graph.reshaped(turned, [*(shape[axis] for axis in batch), *flat]))
    return graph.reshaped(graph.add("MatMul", *sides), _shape(equation.outvars[0]))


class _Windows(NamedTuple):
    """Where the slices lie that a gather reads or a scatter writes: places in an array as a list of rows."""

    rows: Shape  # the array: how many rows there are, and the shape of one
    place: Value  # int32, axes of the indices, then those of a slice but for those of a row
    fits: Value  # bool, axes of the indices: whether a slice lies within the array
    beside: int  # how many axes `place` has of the indices
    within: int  # how many of the slice


def _windows(
    graph: _Graph, shape: Shape, sizes: Shape, starts: Value, starts_shape: Shape, numbers: Any, gone: Any
) -> _Windows:
    """The windows of `sizes` at `starts` (…, K); `gone` are axes, of size 1, that a slice does not have."""
    mapped, batched = numbers[0], dict(zip(*numbers[1:], strict=True))
    whole = [a for a in range(len(shape)) if a not in (*mapped, *batched, *gone) and sizes[a] == shape[a]]
    row_axes = len(shape)
    while row_axes - 1 in whole:
        row_axes -= 1
    lead, row = shape[:row_axes], shape[row_axes:]
    strides = [int(np.prod(lead[axis + 1 :], dtype=int)) for axis in range(row_axes)]
    beside = starts_shape[:-1]
    inner = [axis for axis in range(row_axes) if axis not in (*batched, *gone)]

    last = np.array([shape[axis] - sizes[axis] for axis in mapped], np.int32)
    clipped = graph.add("Min", graph.add("Max", starts, np.zeros_like(last)), last)
    fits = graph.add("Equal", clipped, starts)
    fits = graph.cast(
        graph.add("ReduceMin", graph.cast(fits, np.int32), _ints([len(beside)]), keepdims=0), bool
    )
    steps = np.array([strides[axis] for axis in mapped], np.int32)
    place: Value = graph.add("ReduceSum", graph.add("Mul", clipped, steps), _ints([len(beside)]), keepdims=0)
    offset = np.zeros((*beside, *(sizes[axis] for axis in inner)), np.int32)
    for axis, of in batched.items():
        offset += strides[axis] * _along(np.arange(beside[of]), of, offset.ndim)
    for number, axis in enumerate(inner):
        offset += strides[axis] * _along(np.arange(sizes[axis]), len(beside) + number, offset.ndim)
    place = graph.add("Add", graph.reshaped(place, (*beside, *[1] * len(inner))), offset)
    rows = (int(np.prod(lead, dtype=int)), *row)
    return _Windows(rows, place, fits, len(beside), len(inner) + len(row))


def _along(values: np.ndarray, axis: int, axes: int) -> np.ndarray:
    return values.reshape([-1 if axis == own else 1 for own in range(axes)])


def _gather(graph: _Graph, equation: Any, array: Value, starts: Value) -> Value:
    params, (of, by) = equation.params, equation.invars
    numbers = params["dimension_numbers"]
    batched = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    windows = _windows(
        graph,
        _shape(of),
        params["slice_sizes"],
        starts,
        _shape(by),
        (numbers.start_index_map, *batched),
        numbers.collapsed_slice_dims,
    )
    found: Value = graph.add("Gather", graph.reshaped(array, windows.rows), windows.place, axis=0)
    if params["mode"] == GatherScatterMode.FILL_OR_DROP:
        fits = graph.reshaped(windows.fits, (*_shape(by)[:-1], *[1] * windows.within))
        found = _where(graph, of.aval.dtype, fits, found, _filler(params["fill_value"], of.aval.dtype))
    order = _order(windows, numbers.offset_dims)
    return graph.turned(found, np.argsort(order).tolist())


def _scatter(graph: _Graph, equation: Any, array: Value, starts: Value, new: Value) -> Value:
    params, (into, by, of) = equation.params, equation.invars
    numbers = params["dimension_numbers"]
    batched = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    gone = (*numbers.inserted_window_dims, *batched[0])
    left = iter(_shape(of)[axis] for axis in numbers.update_window_dims)
    shape = _shape(into)
    sizes = tuple(1 if axis in gone else next(left) for axis in range(len(shape)))
    windows = _windows(
        graph,
        shape,
        sizes,
        starts,
        _shape(by),
        (numbers.scatter_dims_to_operand_dims, *batched),
        numbers.inserted_window_dims,
    )
    count, *row = windows.rows
    # What does not fit goes to one row more, which is cut off.
    spare = np.zeros((1, *row), into.aval.dtype)
    rows = graph.joined([graph.reshaped(array, windows.rows), spare], 0)
    place_axes = windows.beside + windows.within - len(row)
    fits = graph.reshaped(windows.fits, (*_shape(by)[:-1], *[1] * (place_axes - windows.beside)))
    place = graph.add("Where", fits, windows.place, np.array(count, np.int32))
    place = graph.cast(graph.add("Unsqueeze", place, _ints([-1])), np.int64)
    new = graph.turned(new, _order(windows, numbers.update_window_dims))
    written = graph.add("ScatterND", rows, place, new)
    return graph.reshaped(graph.part(written, 0, 0, count), shape)


def _order(windows: _Windows, inner: Sequence[int]) -> list[int]:
    """The axes of a result of a gather: those of the indices, then those of the slice, which are `inner`."""
    axes = range(windows.beside + windows.within)
    return [*(axis for axis in axes if axis not in inner), *inner]


def _filler(value: Any, dtype: Any) -> np.ndarray:
    """What a gather finds where there is nothing, as JAX has it."""
    if value is None and dtype.kind in "iu":
        value = np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max
    elif value is None:
        value = dtype.kind == "b" or np.nan
    return np.asarray(value, dtype)


def _nothing(graph: _Graph, equation: Any, *given: Value) -> list[Value]:
    return list(given)


_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
}
"""Primitives that call a jaxpr, and where they have it."""

PRIMITIVES: dict[str, Write] = {
    "abs": _same("Abs"),
    "add": _same("Add"),
    "and": _logical("And", "BitwiseAnd"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "copy": _nothing,
    "cos": _same("Cos"),
    "cumsum": _cumsum,
    "div": _same("Div"),
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "eq": _same("Equal"),
    "erf": _same("Erf"),
    "exp": _same("Exp"),
    "gather": _gather,
    "ge": _same("GreaterOrEqual"),
    "gt": _same("Greater"),
    "integer_pow": _power,
    "le": _same("LessOrEqual"),
    "le_to": _same("LessOrEqual"),  # which differs for NaN and -0 alone
    "log": _same("Log"),
    "logistic": _same("Sigmoid"),
    "lt": _same("Less"),
    "max": _same("Max"),
    "min": _same("Min"),
    "mul": _same("Mul"),
    "ne": _ne,
    "neg": _same("Neg"),
    "not": _logical("Not", "BitwiseNot"),
    "optimization_barrier": _nothing,
    "or": _logical("Or", "BitwiseOr"),
    "pad": _pad,
    "reduce_and": _reduce("ReduceMin"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "rem": _same("Mod", fmod=1),
    "reshape": _reshape,
    "rsqrt": lambda graph, equation, value: graph.add("Reciprocal", graph.add("Sqrt", value)),
    "scatter": _scatter,
    "select_n": _select,
    "shift_right_arithmetic": _shift_arithmetic,
    "shift_right_logical": _same("BitShift", direction="RIGHT"),  # of unsigned numbers
    "sign": _same("Sign"),
    "sin": _same("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _same("Sqrt"),
    "square": lambda graph, equation, value: graph.add("Mul", value, value),
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _nothing,
    "sub": _same("Sub"),
    "tanh": _same("Tanh"),
    "tile": lambda graph, equation, value: graph.add("Tile", value, _ints(equation.params["reps"])),
    "transpose": _transpose,
    "xor": _logical("Xor", "BitwiseXor"),
}
"""What is written for each primitive."""
