"""How a piece was made, as a line of text that its MIDI file carries, so that it can be made again."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from midigen_jax import __version__, config
from midigen_jax.config import SampleConfig
from midigen_jax.errors import InputError
from midigen_jax.music.midi import read_markers

_MARK = "midigen-jax recipe: "


@dataclass(frozen=True)
class Recipe:
    """One piece: the model, the settings, the prompt. Paths are relative to the folder of the MIDI file."""

    run: str  # a path, an address, or pretrained:NAME
    step: int
    checkpoint: str  # the digest of the checkpoint, by which another one of the same name shows
    piece: int  # from 0
    sample: SampleConfig
    prompt: str | None = None
    prompt_digest: str | None = None
    tracks: str | None = None  # of the prompt; None: those that the model was trained on
    version: str = __version__

    def text(self) -> str:
        """One line of ASCII, which `read_recipe` finds in a MIDI file."""
        return _MARK + json.dumps(asdict(self) | {"sample": config.to_json(self.sample)})


def relative(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`: the two may be moved together, and no home is told to others."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a MIDI file. Raises InputError for a file without one, and for a damaged one."""
    lines = [line for line in read_markers(path) if line.startswith(_MARK)]
    if not lines:
        raise InputError(f"{path}: does not say how it was made; give a file that `midigen generate` wrote")
    try:
        data = json.loads(lines[0].removeprefix(_MARK))
        sample = config.from_json(SampleConfig, data.pop("sample"))
        return Recipe(**data, sample=sample)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: what it says of how it was made is damaged; give a whole file") from None
