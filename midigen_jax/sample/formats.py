"""The kinds of files that a piece is written as, and which of them are written.

In: a piece of music, as it was generated. Out: `1.mid`, `1.musicxml`, `1.mp3`, `1.png`. What writes a kind is
imported when it is used, so that the command line can name them all at once.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midigen_jax.errors import InputError
from midigen_jax.listen import check_installed, missing, what_is_missing

if TYPE_CHECKING:
    from midigen_jax.music.notes import Notes
    from midigen_jax.music.piece import Piece
    from midigen_jax.sample.generate import Generated

FEW = 16
"""pieces up to which all kinds are written, where none is asked for"""


def _write_midi(path: Path, music: "Generated", notes: "Notes", text: Sequence[str]) -> None:
    from midigen_jax.music.write import write_midi

    write_midi(notes, path, music.tempo, music.program, text=text, **_about(music, notes))


def _write_musicxml(path: Path, music: "Generated", notes: "Notes", text: Sequence[str]) -> None:
    from midigen_jax.music.write_musicxml import write_musicxml

    source = text[0] if text else ""
    write_musicxml(notes, path, music.tempo, music.program, source=source, **_about(music, notes))


def _about(music: "Generated", notes: "Notes") -> dict[str, Any]:
    """What files of notes say of them besides."""
    from midigen_jax.music.key import key_of

    bars = {"meter": music.meter, "first_bar": music.first_bar, "clock": music.clock}
    return bars | {"key": key_of(notes, music.key), "names": music.names}


def _write_sound(path: Path, music: "Generated", notes: "Notes", text: Sequence[str]) -> None:
    from midigen_jax.listen.audio import synthesize, write_audio

    if len(notes):
        write_audio(path, synthesize(notes, music.tempo, music.program, music.clock))


def _write_picture(path: Path, music: "Generated", notes: "Notes", text: Sequence[str]) -> None:
    from midigen_jax.listen.pianoroll import draw

    draw(notes, path, "", music.tempo, music.meter, music.first_bar, music.clock)


class Format(NamedTuple):
    """A kind of file: what its name ends in, what writes it, whether that is of the extra `listen`."""

    suffix: str
    write: Callable[[Path, "Generated", "Notes", Sequence[str]], None]
    is_extra: bool = False


FORMATS = {
    "midi": Format(".mid", _write_midi),
    "musicxml": Format(".musicxml", _write_musicxml),
    "mp3": Format(".mp3", _write_sound, is_extra=True),
    "png": Format(".png", _write_picture, is_extra=True),
}


def write_piece(piece: "Piece", path: Path, names: Sequence[str] = ()) -> None:
    """Write a piece as what its path ends in. names: of its voices, where its tracks are voices.

    Raises InputError for an ending that is not of `FORMATS`.
    """
    from midigen_jax.sample.generate import Generated

    format = next((one for one in FORMATS.values() if one.suffix == path.suffix.lower()), None)
    if format is None:
        raise InputError(f"{path}: end it in {', '.join(one.suffix for one in FORMATS.values())}")
    if format.is_extra:
        check_installed()
    about = piece.tempo, piece.meter, piece.program, piece.first_bar, piece.clock
    music = Generated(
        [piece.notes], 0, 0, 0, 0, *about, names=tuple(names) if piece.voiced == len(names) else ()
    )
    format.write(path, music, piece.notes, ())


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
