"""A network, part by part: what goes in and out, its parameters, and what it costs.

In: a network. Out: a list of parts, from the embeddings to the heads, which pages draw and commands print.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax

from midigen_jax.model.blocks import Matmul
from midigen_jax.model.network import Network, init_params


class Part(NamedTuple):
    """One box of a drawing of the network."""

    name: str  # as its parameters are called
    says: str  # what it is
    inputs: int  # the width of what goes in: ids, or units
    outputs: int
    parameters: int
    flops: int  # an event, forward: of its matrix products


def parts(network: Network) -> list[Part]:
    """The parts of a network, in the order in which an event goes through them."""
    config, streams = network.config, network.vocabulary.streams
    shapes = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}

    def part(names: Sequence[str], says: str, inputs: int, outputs: int, products: Sequence[Matmul]) -> Part:
        flops = sum(product.flops for product in products)
        return Part(names[0], says, inputs, outputs, sum(counts.get(name, 0) for name in names), flops)

    width = config.width
    found = [
        part([f"embed_{name}"], f"embedding of {name}", size, config.embedding_of(name), [])
        for name, size in streams
    ]
    if "features" in counts:
        found.append(part(["features"], "past features", 0, config.context.width, []))
    if "enter" in counts:
        found.append(
            part(["enter"], "projection", network.inputs, width, [Matmul(1, 1, network.inputs, width)])
        )
    for place, (spec, block) in enumerate(zip(config.blocks, network.blocks_apart(), strict=True)):
        found.append(part([f"blocks_{place}"], spec, block.inputs, block.width, block.matmuls(1, 1)))
    for place, (name, size) in enumerate(streams):
        products = [Matmul(1, 1, width, size)]
        names, says = [f"head_{name}"], f"head of {name}"
        if f"chain_{name}" in counts:
            products.append(Matmul(1, 1, width, width))
            names += [f"chain_{name}", *(f"given_{name}_{earlier}" for earlier, _ in streams[:place])]
            says += f", given {' and '.join(earlier for earlier, _ in streams[:place])}"
        found.append(part(names, says, width, size, products))
    if "interval_head" in counts:
        found.append(part(["interval_head"], "head of intervals", width, streams[0].size, []))
    return found


def table(found: Sequence[Part]) -> list[str]:
    """Lines of text: a part a line, and their sum."""
    lines: list[tuple[str, ...]] = [("part", "what", "in", "out", "parameters", "flop an event")]
    lines += [
        (p.name, p.says, f"{p.inputs:,}", f"{p.outputs:,}", f"{p.parameters:,}", f"{p.flops:,}")
        for p in found
    ]
    total = sum(p.parameters for p in found), sum(p.flops for p in found)
    lines.append(("all", "", "", "", *(f"{number:,}" for number in total)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = []
    for line in lines:
        cells = zip(line[:2], widths, strict=False), zip(line[2:], widths[2:], strict=True)
        left, right = [c.ljust(w) for c, w in cells[0]], [c.rjust(w) for c, w in cells[1]]
        words.append("  ".join([*left, *right]).rstrip())
    return words
