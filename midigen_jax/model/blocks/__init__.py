"""Which blocks there are, and how `model.blocks` names them.

Nothing outside of this room asks which block it has. A new one is one file and one line of `BLOCKS`, or a
class of one's own that is named by its path: `my.module:MyCell`. Settings of a block stand behind its name:
`multihead(heads=8, window=64)`. docs/extending.md writes one.
"""

import ast
import dataclasses
import importlib
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from midigen_jax.config import ModelConfig, nearest
from midigen_jax.errors import InputError, one_line
from midigen_jax.model.blocks.base import Block, DropConnect, Matmul, Step
from midigen_jax.model.blocks.gru import GRU
from midigen_jax.model.blocks.lstm import LSTM
from midigen_jax.model.blocks.multihead import MultiHead
from midigen_jax.model.blocks.pooled import Pooled
from midigen_jax.model.blocks.recurrent import Recurrent
from midigen_jax.vocab.base import Stream

BLOCKS: dict[str, type[Block]] = {
    "lstm": LSTM,
    "gru": GRU,
    "pooled": Pooled,
    "multihead": MultiHead,
}

_COMMON = {field.name for field in dataclasses.fields(Block)}  # fields that the network fills in


def make_blocks(
    config: ModelConfig, streams: Sequence[Stream], inputs: int, platform: str = ""
) -> list[Block]:
    """The blocks of a network, the first of `inputs` features, all of `config.width` units.

    Raises InputError for a block that is not there, a setting that it has not, and a class that is no block.
    """
    found = []
    for spec in config.blocks:
        kind, settings = _parsed(spec)
        common: dict[str, Any] = {
            "streams": tuple(streams),
            "compute_dtype": config.compute_dtype,
            "platform": platform,
            "parent": None,
        }
        inputs = inputs if kind.any_inputs else config.width
        block = kind(inputs=inputs, width=config.width, **common, **settings)
        check_block(spec, block)
        found.append(block)
        inputs = config.width
    return found


def _parsed(spec: str) -> tuple[type[Block], dict[str, Any]]:
    """The class and the settings of `name`, `name(setting=value, …)` or `module:Class(…)`."""
    match = re.fullmatch(r"\s*([\w.:]+)\s*(?:\((.*)\))?\s*", spec)
    if match is None:
        raise InputError(
            f"model.blocks: {spec!r}: give NAME or NAME(setting=value), as in lstm or pooled(window=32)"
        )
    name, given = match[1], match[2] or ""
    kind = _imported(name) if ":" in name else BLOCKS.get(name)
    if kind is None:
        raise InputError(
            f"model.blocks: no block {name}; {nearest(name, BLOCKS)}, or module:Class of your own"
        )
    own = {field.name: field for field in dataclasses.fields(kind)}
    own = {key: own[key] for key in own if key not in _COMMON}
    settings = {}
    for part in filter(None, map(str.strip, given.split(","))):
        key, equals, value = map(str.strip, part.partition("="))
        if key not in own or not equals:
            raise InputError(f"model.blocks: {name} has no setting {part!r}; {nearest(key, own)}")
        settings[key] = _value(f"model.blocks: {name}({key})", value, own[key].default)
    return kind, settings


def _value(name: str, text: str, default: Any) -> Any:
    """Text as a value of the kind that the default has."""
    if isinstance(default, str):
        return text.strip("'\"")
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = None
    if type(value) is int and isinstance(default, float):
        value = float(value)
    if type(value) is not type(default):
        raise InputError(f"{name} = {text}: give {_WORDS.get(type(default), 'a value')} such as {default}")
    return value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _imported(name: str) -> type[Block]:
    """The class `module:Class`; the module is also looked for in the current folder."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"model.blocks: {name}: {error}; run where the module lies, or set PYTHONPATH"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Block)):
        raise InputError(f"model.blocks: {name} is no block; derive it from midigen_jax.model.blocks.Block")
    return found


@cache
def check_block(name: str, block: Block) -> None:
    """Raises InputError for what a block lacks, or cannot do with its settings, before it is used."""
    for method in ("initial_carry", "matmuls", "__call__"):
        if getattr(type(block), method) is getattr(Block, method):
            raise InputError(f"model.blocks: {name} lacks {method}; see midigen_jax.model.blocks.Block")
    block.check()
    try:
        before, after, y = jax.eval_shape(lambda: _two_steps(block))
    except (TypeError, ValueError) as error:
        raise InputError(f"model.blocks: {name} fails on 2 rows and 2 times: {one_line(error)}") from error
    if y.shape != (2, 2, block.width):
        raise InputError(
            f"model.blocks: {name} makes {y.shape} of 2 rows and 2 times; make {(2, 2, block.width)} of it"
        )
    if _kinds(before) != _kinds(after):
        raise InputError(
            f"model.blocks: {name} gives another carry than initial_carry; keep shapes and dtypes"
        )


def _kinds(carry: Any) -> Any:
    leaves, tree = jax.tree.flatten(carry)
    return tree, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _two_steps(block: Block) -> tuple[Any, Any, Any]:
    """The carry before and after two events of two rows, and the outputs."""
    ids = jnp.zeros((2, 2), jnp.int32)
    now = Step({name: ids for name, _ in block.streams}, ids, jnp.ones((2, 2), bool))
    carry = block.initial_carry(2)
    (after, y), _ = block.init_with_output(jax.random.key(0), carry, jnp.zeros((2, 2, block.inputs)), now)
    return carry, after, y


__all__ = ["BLOCKS", "Block", "DropConnect", "Matmul", "Recurrent", "Step", "check_block", "make_blocks"]
