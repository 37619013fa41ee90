"""The recurrence of an LSTM layer as two kernels for TPUs, forward and backward, in Pallas.

In and out as the scans of `lstm.py`. The recurrent weights stay in VMEM, the chip's fast memory, over all
times; so does the carry. Sums and gates are streamed from and to HBM in blocks of time, the next block while
this one is computed. XLA compiles a scan to some kernels a turn, which hand each other their results, and
keeps wide gates in HBM as well.

Rows are independent: many of them are computed in groups, one after another, each over all times.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from midigen_jax.model.blocks.lstm_scan import Kernels, LSTMCarry, States

_SHIFT = 7
LANES = 1 << _SHIFT  # values side by side in a register
_MOST_ROWS = 128  # of a group: the matrix unit is busy with as many
_MOST_TIMES = 32  # of a block: a block costs some hundred cycles to begin, and the first one is waited for
_VMEM = 48 * 2**20  # bytes that are planned with: v5p and TPU7x have 64 MiB a core
_SPARE = 8 * 2**20  # what the compiler may need besides


class Blocks(NamedTuple):
    """Rows of a group, times of a block, turns that are scheduled as one, and bytes of VMEM for them all."""

    rows: int
    times: int
    unroll: int
    bytes: int


def blocks(times: int, rows: int, width: int, stream: int, operand: int) -> Blocks | None:
    """How a recurrence is cut so that it fits into VMEM; none where its weights alone are too many.

    `stream` and `operand` are the bytes of a number of the sums and the gates, and of the weights.
    """
    # What a row takes: carries and the gates that are computed; then at each time of a block, twice.
    state, each = 4 * 22 * width + 8 * LANES, 2 * width * (9 * stream + 4)
    # All lengths are powers of two, so that a block lies within the 128 times whose mask is read at once.
    # Of one that divides all times the number of turns is a constant.
    divides = times & -times
    length = min(_MOST_TIMES, divides if divides >= 8 else _power(times))
    least = min(length, max(1, 2048 // width), 8)
    group = rows if rows <= _MOST_ROWS else _MOST_ROWS
    while group > 0:
        cut = length
        while cut >= least:
            need = 4 * width * width * operand + group * (state + cut * each)
            if need <= _VMEM:
                # More turns at once hide how long each result takes, where there are few numbers a turn.
                unroll = min(4, cut, _power(max(1, 131_072 // (group * width))))
                return Blocks(group, cut, unroll if times % cut == 0 else 1, need)
            cut //= 2
        group = 0 if group <= 8 else 8 * -(-group // 16)
    return None


def fits(width: int, dtype: str) -> bool:
    """Whether the kernels of a layer of this width fit into the VMEM of every chip that they are for.

    On a TPU of this machine that is none of these (v4 and older have 16 MiB a core) nothing fits.
    """
    if jax.default_backend() == "tpu" and pltpu.get_tpu_info().vmem_capacity_bytes < _VMEM + _SPARE:
        return False
    operand = jnp.dtype(_operand(dtype, jnp.dtype("float32"), interpret=False)).itemsize
    return blocks(_MOST_TIMES, 8, width, 4, operand) is not None


def states(
    dtype: str, recurrent_DG: Array, carry: LSTMCarry, sum_TBG: Array, mask_TB: Array, interpret: bool = False
) -> tuple[LSTMCarry, States]:
    """The carry after the last step, and the states at all times in the dtype of the sums.

    `dtype` is that of the operands of products; `interpret` runs the kernel anywhere, slowly, to test it.
    """
    times, rows, gates = sum_TBG.shape
    width, state, kept = gates // 4, carry.hidden_BD.dtype, sum_TBG.dtype
    operand = _operand(dtype, recurrent_DG.dtype, interpret)
    cut = _cut(times, rows, width, kept, operand, interpret)
    lanes = min(times, LANES)

    def over_time(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((cut.times, cut.rows, size), lambda group, block: (block, group, 0))

    def seen_at(group: Array, block: Array) -> tuple:
        return group, (block * cut.times) >> _SHIFT

    of_group = pl.BlockSpec((cut.rows, width), lambda group, block: (group, 0))
    hidden_TBD, cell_TBD, gates_TBG, hidden_BD, cell_BD = pl.pallas_call(
        partial(_forward, cut, times),
        grid=(pl.cdiv(rows, cut.rows), pl.cdiv(times, cut.times)),
        in_specs=[
            over_time(gates),
            pl.BlockSpec((cut.rows, lanes), seen_at),
            _whole(width, gates),
            of_group,
            of_group,
        ],
        out_specs=[over_time(width), over_time(width), over_time(gates), of_group, of_group],
        out_shape=[
            *[jax.ShapeDtypeStruct((times, rows, width), kept)] * 2,
            jax.ShapeDtypeStruct((times, rows, gates), kept),
            *[jax.ShapeDtypeStruct((rows, width), state)] * 2,
        ],
        scratch_shapes=[pltpu.VMEM((cut.rows, width), state)] * 2,
        name="lstm_states",
        **_how(cut, interpret),
    )(sum_TBG, mask_TB.T.astype(jnp.float32), recurrent_DG.astype(operand), *carry)
    return LSTMCarry(hidden_BD, cell_BD), States(hidden_TBD, cell_TBD, gates_TBG)


def gradients(
    dtype: str,
    recurrent_DG: Array,
    before_TBD: Array,
    states: States,
    mask_TB: Array,
    d_after: LSTMCarry,
    d_hidden_TBD: Array,
    interpret: bool = False,
) -> tuple[LSTMCarry, Array]:
    """Gradients of the first carry and of the gates' sums at all times; `before_TBD` are cell states."""
    times, rows, gates = states.gates_TBG.shape
    width, state, kept = gates // 4, d_after.hidden_BD.dtype, states.gates_TBG.dtype
    operand = _operand(dtype, recurrent_DG.dtype, interpret)
    cut = _cut(times, rows, width, kept, operand, interpret)
    lanes, last = min(times, LANES), pl.cdiv(times, cut.times) - 1

    def over_time(size: int) -> pl.BlockSpec:
        return pl.BlockSpec((cut.times, cut.rows, size), lambda group, turn: (last - turn, group, 0))

    def time_before(group: Array, turn: Array) -> tuple:
        return jnp.maximum((last - turn) * cut.times - 1, 0), group, 0

    def seen_at(group: Array, turn: Array) -> tuple:
        return group, ((last - turn) * cut.times) >> _SHIFT

    of_group = pl.BlockSpec((cut.rows, width), lambda group, turn: (group, 0))
    d_gates_TBG, *d_carry = pl.pallas_call(
        partial(_backward, cut, times),
        grid=(pl.cdiv(rows, cut.rows), last + 1),
        in_specs=[
            over_time(width),
            over_time(width),
            pl.BlockSpec((1, cut.rows, width), time_before),
            of_group,
            over_time(gates),
            pl.BlockSpec((cut.rows, lanes), seen_at),
            _whole(width, gates),
            of_group,
            of_group,
        ],
        out_specs=[over_time(gates), of_group, of_group],
        out_shape=[
            jax.ShapeDtypeStruct((times, rows, gates), kept),
            *[jax.ShapeDtypeStruct((rows, width), state)] * 2,
        ],
        scratch_shapes=[pltpu.VMEM((cut.rows, width), state)] * 2,
        name="lstm_gradients",
        **_how(cut, interpret),
    )(
        d_hidden_TBD,
        states.cell_TBD,
        states.cell_TBD,
        before_TBD[0],
        states.gates_TBG,
        mask_TB.T.astype(jnp.float32),
        recurrent_DG.astype(operand),
        *d_after,
    )
    return LSTMCarry(*d_carry), d_gates_TBG


def _forward(
    cut: Blocks,
    times: int,
    sum_ref: Any,
    seen_ref: Any,
    recurrent_ref: Any,
    first_hidden_ref: Any,
    first_cell_ref: Any,
    hidden_ref: Any,
    cell_ref: Any,
    gates_ref: Any,
    after_hidden_ref: Any,
    after_cell_ref: Any,
    now_hidden_ref: Any,
    now_cell_ref: Any,
) -> None:
    """One block of time of one group of rows."""
    block, state, width = pl.program_id(1), now_cell_ref.dtype, now_cell_ref.shape[1]

    @pl.when(block == 0)
    def _() -> None:
        now_hidden_ref[...] = first_hidden_ref[...]
        now_cell_ref[...] = first_cell_ref[...]

    def step(time: Array, carry: LSTMCarry) -> LSTMCarry:
        product_BG = _dot(carry.hidden_BD, recurrent_ref[...], 0, state)
        sum_BG = sum_ref[time].astype(state) + product_BG
        input_BD, forget_BD, output_BD = (_sigmoid(sum_BG[:, _gate(n, width)]) for n in (0, 1, 3))
        candidate_BD = jnp.tanh(sum_BG[:, _gate(2, width)])
        seen_B1 = _seen(seen_ref, block * cut.times + time)
        cell_BD = jnp.where(seen_B1, forget_BD * carry.cell_BD + input_BD * candidate_BD, carry.cell_BD)
        hidden_BD = jnp.where(seen_B1, output_BD * jnp.tanh(cell_BD), carry.hidden_BD)
        hidden_ref[time] = hidden_BD.astype(hidden_ref.dtype)
        cell_ref[time] = cell_BD.astype(cell_ref.dtype)
        for n, gate_BD in enumerate((input_BD, forget_BD, candidate_BD, output_BD)):
            gates_ref[time, :, _gate(n, width)] = gate_BD.astype(gates_ref.dtype)
        return LSTMCarry(hidden_BD, cell_BD)

    carry = LSTMCarry(now_hidden_ref[...], now_cell_ref[...])
    carry = lax.fori_loop(0, _turns(cut, times, block), step, carry, unroll=cut.unroll)
    now_hidden_ref[...], now_cell_ref[...] = carry
    after_hidden_ref[...], after_cell_ref[...] = carry


def _backward(
    cut: Blocks,
    times: int,
    d_hidden_ref: Any,
    cell_ref: Any,
    before_ref: Any,
    first_cell_ref: Any,
    gates_ref: Any,
    seen_ref: Any,
    recurrent_ref: Any,
    d_after_hidden_ref: Any,
    d_after_cell_ref: Any,
    d_gates_ref: Any,
    d_first_hidden_ref: Any,
    d_first_cell_ref: Any,
    later_hidden_ref: Any,
    later_cell_ref: Any,
) -> None:
    """One block of time of one group of rows, from its last step to its first."""
    state, width = later_cell_ref.dtype, later_cell_ref.shape[1]
    block = pl.cdiv(times, cut.times) - 1 - pl.program_id(1)
    turns = _turns(cut, times, block)

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        later_hidden_ref[...] = d_after_hidden_ref[...]
        later_cell_ref[...] = d_after_cell_ref[...]

    # The cell state before the block: the last one of the block before it, or the carry's.
    before_block_BD = jnp.where(block == 0, first_cell_ref[...], before_ref[0])

    def step(turn: Array, later: LSTMCarry) -> LSTMCarry:
        """From the gradient of the carry after a step to that of the carry before it."""
        time = turns - 1 - turn
        before_BD = jnp.where(time == 0, before_block_BD, cell_ref[jnp.maximum(time - 1, 0)]).astype(state)
        seen_B1 = _seen(seen_ref, block * cut.times + time)
        d_hidden_BD = d_hidden_ref[time] + later.hidden_BD
        input_BD, forget_BD, candidate_BD, output_BD = (
            gates_ref[time, :, _gate(n, width)].astype(state) for n in range(4)
        )
        squashed_BD = jnp.tanh(cell_ref[time].astype(state))
        through_BD = jnp.where(seen_B1, d_hidden_BD, 0)
        inner_BD = jnp.where(seen_B1, later.cell_BD, 0) + through_BD * output_BD * (1 - squashed_BD**2)
        d_gates = (
            inner_BD * candidate_BD * input_BD * (1 - input_BD),
            inner_BD * before_BD * forget_BD * (1 - forget_BD),
            inner_BD * input_BD * (1 - candidate_BD**2),
            through_BD * squashed_BD * output_BD * (1 - output_BD),
        )
        for n, d_gate_BD in enumerate(d_gates):
            d_gates_ref[time, :, _gate(n, width)] = d_gate_BD.astype(d_gates_ref.dtype)
        back_BD = _dot(jnp.concatenate(d_gates, axis=1), recurrent_ref[...], 1, state)
        return LSTMCarry(
            back_BD + jnp.where(seen_B1, 0, d_hidden_BD),
            inner_BD * forget_BD + jnp.where(seen_B1, 0, later.cell_BD),
        )

    later = LSTMCarry(later_hidden_ref[...], later_cell_ref[...])
    later = lax.fori_loop(0, turns, step, later, unroll=cut.unroll)
    later_hidden_ref[...], later_cell_ref[...] = later
    d_first_hidden_ref[...], d_first_cell_ref[...] = later


def _dot(left: Array, right: Array, axis: int, state: Any) -> Array:
    """Product over the last axis of `left` and this one of `right`, in the dtype of `right`."""
    exact = right.dtype != jnp.bfloat16
    return lax.dot_general(
        left.astype(right.dtype),
        right,
        (((1,), (axis,)), ((), ())),
        precision=lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT,
        preferred_element_type=state,
    )


def _sigmoid(sum_BD: Array) -> Array:
    return jnp.tanh(sum_BD * 0.5) * 0.5 + 0.5


def _gate(number: int, width: int) -> slice:
    return slice(number * width, (number + 1) * width)


def _seen(seen_ref: Any, time: Array) -> Array:
    """(B, 1): what the mask says of a time; times lie side by side, and a sum takes one out."""
    seen_BT = seen_ref[...]
    here_BT = lax.broadcasted_iota(jnp.int32, seen_BT.shape, 1) == time & (LANES - 1)
    return jnp.where(here_BT, seen_BT, 0).sum(axis=1, keepdims=True) > 0


def _turns(cut: Blocks, times: int, block: Array) -> Any:
    """Times of a block: the last one may be cut short."""
    return cut.times if times % cut.times == 0 else jnp.minimum(cut.times, times - block * cut.times)


def _operand(dtype: str, weights: Any, interpret: bool) -> Any:
    """The dtype of what is multiplied: XLA too rounds float32 to bfloat16 on a TPU unless told otherwise."""
    # The value of now, of a context too, which `config.read` refuses to give.
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    one_pass = precision in (None, "default", "fastest", "bfloat16")
    return jnp.bfloat16 if dtype == "bfloat16" or (one_pass and not interpret) else weights


def _cut(times: int, rows: int, width: int, stream: Any, operand: Any, interpret: bool) -> Blocks:
    cut = blocks(times, rows, width, jnp.dtype(stream).itemsize, jnp.dtype(operand).itemsize)
    if cut is None:
        raise ValueError(f"no block of a layer of {width} units fits into VMEM")
    return cut._replace(unroll=1) if interpret else cut


def _whole(*shape: int) -> pl.BlockSpec:
    """All of an array in every block: one copy, since it does not change."""
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape), pipeline_mode=pl.Buffered(buffer_count=1))


def _how(cut: Blocks, interpret: bool) -> dict[str, Any]:
    if interpret:
        return {"interpret": True}
    # Groups know nothing of each other; a TPU with two cores (v5p) shares them out. Times follow each other.
    order = (pltpu.GridDimensionSemantics.PARALLEL, pltpu.GridDimensionSemantics.ARBITRARY)
    return {
        "compiler_params": pltpu.CompilerParams(
            dimension_semantics=order, vmem_limit_bytes=cut.bytes + _SPARE
        )
    }


def _power(number: int) -> int:
    """The largest power of two up to a number."""
    return int(2 ** (int(number).bit_length() - 1))


KERNELS = Kernels("tpu", states, gradients)
