"""The kinds of files that a piece is written as, and which of them are written.

In: a piece. Out: `1.mid`, `1.musicxml`, `1.mp3`, `1.png`. What writes a kind is imported when it is used, so
that the command line can name them all at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midigen_jax.errors import InputError
from midigen_jax.listen import check_installed, missing, what_is_missing

if TYPE_CHECKING:
    from midigen_jax.music.key import Target
    from midigen_jax.music.piece import Piece

FEW = 16
"""pieces up to which all kinds are written, where none is asked for"""


def _write_midi(path: Path, piece: "Piece", named: "Named", text: Sequence[str]) -> None:
    from midigen_jax.music.write import write_midi

    write_midi(piece.notes, path, piece.tempo, piece.program, text=text, **_about(piece, named))


def _write_musicxml(path: Path, piece: "Piece", named: "Named", text: Sequence[str]) -> None:
    from midigen_jax.music.write_musicxml import write_musicxml

    source = text[0] if text else ""
    write_musicxml(piece.notes, path, piece.tempo, piece.program, source=source, **_about(piece, named))


def _write_sound(path: Path, piece: "Piece", named: "Named", text: Sequence[str]) -> None:
    from midigen_jax.listen.audio import synthesize, write_audio

    if len(piece.notes):
        write_audio(path, synthesize(piece.notes, piece.tempo, piece.program, piece.clock))


def _write_picture(path: Path, piece: "Piece", named: "Named", text: Sequence[str]) -> None:
    from midigen_jax.listen.pianoroll import draw

    draw(piece.notes, path, "", piece.tempo, piece.meter, piece.first_bar, piece.clock)


def _about(piece: "Piece", named: "Named") -> dict[str, Any]:
    """What files of notes say of them besides."""
    from midigen_jax.music.key import key_of, with_signature

    asked = named.key
    if asked is None and piece.signature is not None:
        asked = with_signature(piece.signature)
    bars = {"meter": piece.meter, "first_bar": piece.first_bar, "clock": piece.clock}
    return bars | {"key": key_of(piece.notes, asked), "names": named.voices}


class Named(NamedTuple):
    """What is told of a piece: names of its voices, from the lowest up, and the key that was asked for."""

    voices: Sequence[str]
    key: "Target | None"


class Format(NamedTuple):
    """A kind of file: what its name ends in, what writes it, whether that is of the extra `listen`."""

    suffix: str
    write: Callable[[Path, "Piece", Named, Sequence[str]], None]
    is_extra: bool = False


FORMATS = {
    "midi": Format(".mid", _write_midi),
    "musicxml": Format(".musicxml", _write_musicxml),
    "mp3": Format(".mp3", _write_sound, is_extra=True),
    "png": Format(".png", _write_picture, is_extra=True),
}


def write_piece(
    piece: "Piece",
    path: Path,
    names: Sequence[str] = (),
    key: "Target | None" = None,
    text: Sequence[str] = (),
) -> None:
    """Write a piece as what its path ends in.

    names: of its voices, where its tracks are voices. key: that was asked for. text: lines that a MIDI file
    carries. Raises InputError for an ending that is not of `FORMATS`, and for one whose extra is missing.
    """
    format = next((one for one in FORMATS.values() if one.suffix == path.suffix.lower()), None)
    if format is None:
        raise InputError(f"{path}: end it in {', '.join(one.suffix for one in FORMATS.values())}")
    if format.is_extra:
        check_installed()
    format.write(path, piece, Named(names if piece.voiced == len(names) else (), key), text)


def possible() -> tuple[str, ...]:
    """All kinds, but for those of an extra that is missing."""
    return tuple(name for name, format in FORMATS.items() if not (format.is_extra and missing()))


def choose(asked: Sequence[str] | None, pieces: int) -> tuple[tuple[str, ...], list[str]]:
    """The kinds that are written of so many pieces, and what is to be said of the others.

    Without any that are `asked` for: all that are possible, and of more than `FEW` pieces MIDI alone. Raises
    InputError, with the remedy, for one whose extra is missing.
    """
    if asked is not None:
        if any(FORMATS[name].is_extra for name in asked):
            check_installed()
        return tuple(dict.fromkeys(asked)), []
    if pieces > FEW:
        others = ",".join(name for name in possible() if name != "midi")
        return ("midi",), [f"Of more than {FEW} pieces, MIDI files alone; --format {others} adds the others."]
    return possible(), what_is_missing()
