"""A model from Python: music in, music out, and how likely music is. `midigen_jax.load` gives one.

model = midigen_jax.load("pretrained:chorales")
pieces = model.generate(count=4, temperature=0.9, length="16bars")
chorales = model.harmonise(model.read("melody.mid"))
print(model.score(chorales[0]).per_quarter)
model.write(chorales[0], "chorale.musicxml")
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from midigen_jax.config import Config, override
from midigen_jax.data.reading import read_as
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network, score
from midigen_jax.music.piece import Piece
from midigen_jax.sample.around import How, fill, harmonise
from midigen_jax.sample.decode import prompt_of
from midigen_jax.sample.folder import bars_of, find_prompt
from midigen_jax.sample.formats import write_piece
from midigen_jax.sample.generate import check_sample, generate, moved_home, names_of
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import unknown_of


class Score(NamedTuple):
    """How likely a model finds a piece."""

    nats: float  # of all of it, <end> included: minus the logarithm of its probability
    quarters: float

    @property
    def per_quarter(self) -> float:
        """Nats a quarter."""
        return self.nats / self.quarters


class Model:
    """A trained model that is ready to use; pieces are `midigen_jax.music.piece.Piece`."""

    def __init__(self, loaded: LoadedModel):
        self.loaded = loaded

    def read(self, path: str | Path) -> Piece:
        """The piece in a file of any kind that `midigen prepare` reads, as the model reads it.

        `song.mid:1-8` is its first eight bars; an upbeat is bar 0. Raises InputError for what cannot be read.
        """
        file, bars = bars_of(str(path))
        piece = read_as(find_prompt(file or "", "read"), self.loaded.metadata.config.prepare)
        return piece if bars is None else piece.excerpt(*bars)

    def generate(self, count: int = 1, prompt: Piece | None = None, **settings: Any) -> list[Piece]:
        """Pieces that the model writes, each going on from `prompt`, if there is one.

        settings: those of `midigen generate` (`SampleConfig`): temperature=0.9, length="16bars", seed=3 …
        Raises InputError for settings that are none, and for a prompt that the model cannot read.
        """
        named = {f"sample.{name}": value for name, value in settings.items()}
        config = override(Config(), named | {"sample.count": count}).sample
        check_sample(config)
        return generate(self.loaded, config, prompt).whole()

    def harmonise(self, melody: Piece, voice: str = "soprano", **how: Any) -> list[Piece]:
        """Pieces in which `melody` is one of the voices, the likeliest first.

        voice: soprano, alto, tenor, bass, or its number from the highest. how: settings of `How`: count,
        particles, temperature, seed … Raises InputError for a model without voices, or two notes at once.
        """
        return harmonise(self.loaded, melody, voice, How(**how)).music.whole()

    def fill(
        self, piece: Piece, bars: tuple[int, int], voices: Sequence[str] = (), **how: Any
    ) -> list[Piece]:
        """`piece` with its bars from the first to the last of `bars` written anew, in all voices or in some.

        how: as in `harmonise`. Raises InputError for bars that are not there.
        """
        return fill(self.loaded, piece, bars, voices, How(**how)).music.whole()

    def score(self, piece: Piece) -> Score:
        """How likely the model finds a piece. Raises InputError for one that it cannot say."""
        if not len(piece.notes):
            raise InputError("the piece holds no notes; give another one")
        vocabulary = self.loaded.metadata.vocabulary
        there, _ = moved_home(self.loaded, piece)
        begin = int(there[:, 0].min())
        tokens = vocabulary.encode(Piece(there, piece.tempo, piece.meter, voiced=piece.voiced))
        if unknown_of(vocabulary.tables, tokens).any():
            raise InputError("the piece has chords that are not in the model's vocabulary; give another one")
        read = prompt_of(vocabulary, tokens)
        bar_line = begin - piece.first_bar if self.loaded.metadata.knows_bar_lines else 0
        nats = _nats(self.loaded.network)(self.loaded.params, *read, jnp.int32(bar_line))
        end = int((there[:, 0] + there[:, 1]).max())
        return Score(float(nats), piece.clock.quarters(end - begin))

    def write(self, piece: Piece, path: str | Path) -> None:
        """Write a piece as .mid, .musicxml, .mp3 or .png. Raises InputError for any other ending."""
        write_piece(piece, Path(path), names_of(self.loaded.metadata.vocabulary))


@lru_cache(maxsize=4)
def _nats(network: Network) -> Any:
    """The nats of one row of events under a mask, which begins at a tick of a bar; compiled by length."""

    @jax.jit
    def run(params: dict, events: dict[str, Any], mask_BT: Any, begin: Any) -> Any:
        carry = network.initial_carry(1, tick_B=begin[None])
        _, nats = score(network, params, carry, events, mask_BT[:, 1:])
        return sum(part_BT.sum() for part_BT in jax.tree.leaves(nats))

    return run
