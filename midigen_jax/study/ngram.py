"""An interpolated n-gram: counts in, the probability of what comes next out.

Contexts are given from the shortest to the longest, each a refinement of the one before. Every one trusts its
own counts as far as they go and hands the rest on: with c occurrences of a context and t different symbols
after it, t / (c + t) of the probability belongs to the shorter context (Witten & Bell 1991, method C;
interpolated as in Chen & Goodman 1999).
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence


class NGram:
    """Counts of symbols in contexts. A context tells how long it is: no two lengths share one."""

    def __init__(self) -> None:
        self._after: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)

    def learn(self, symbol: Hashable, contexts: Sequence[Hashable]) -> None:
        """Count a symbol in all its contexts."""
        for context in contexts:
            self._after[context][symbol] += 1

    def probability(self, symbol: Hashable, contexts: Sequence[Hashable], base: float) -> float:
        """Of `symbol` in the longest context that was seen; `base` is its probability without any."""
        chance = base
        for context in contexts:
            counts = self._after.get(context)
            if counts is None:
                break
            kinds, total = len(counts), counts.total()
            chance = (counts[symbol] + kinds * chance) / (total + kinds)
        return chance
