"""ABC: a file as single tunes, and a tune as the parts of a score, played by `abc2midi`.

In: the bytes of a file. Out: the bytes of its tunes; of one, `Written`. `abc2midi` is a program that comes
with symusic. What has no length of its own is taken out before it plays: chord symbols, annotations,
ornaments, grace notes and words; and so are repeats, unless they are asked for. What it plays otherwise than
the standard, ABC 2.1, is written out for it: tuplets, ties, how far accidentals hold.
"""

import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music.parts import Part, Written

_SECONDS = 20  # that a tune may take
_FIELD = re.compile(r"[A-Za-z]:(?![|:\]])")
_PLAYED = re.compile(r"[XMLKQVPUmI]:|%%MIDI +(program|transpose|rtranspose)\b|%%propagate-accidentals\b")
_REMARK = re.compile(r"^(%%.*)|(?<!\\)%.*", re.MULTILINE)
_INLINE = r"\[[A-Za-z]:[^\]\n]*\]"
# What an ending is called, as in `|["Coda" CDE|`, and not the first note of a chord, as in `|["C"CEG]`.
_NAMED = r'(?<=[|:])\["[^"\n]*"(?![^|\]\n]*\])'
_SAID = rf'{_NAMED}|"[^"\n]*"|![^!\s|\[\]]*!'
_GRACE = r"\{[^}\n]*\}"
# A field in brackets stays; quoted texts, decorations by name and by sign, and grace notes go, and ties that
# do not stand by a note that is played.
_NOT_PLAYED = re.compile(rf"({_INLINE})|{_SAID}|{_GRACE}-?|(?<=[<>])-|[H-Wh-wy~.!]|\\\s*$")
_PITCH = re.compile(
    rf"{_INLINE}|{_SAID}|(?P<grace>{_GRACE})|(?P<bar>\|)|(?P<sign>[_^=]*)(?P<pitch>[A-Ga-g][,']*)"
)
_SIGNED = re.compile(r"([_^=]+)([A-Ga-g][,']*)")
_BAR_LINE = r":*\[?\|[|\]:]*|(?<!\(\d)::+"
_REPEATED = re.compile(rf"(?:{_BAR_LINE}|\[)\s*\d[\d,.-]*|{_BAR_LINE}")
_TUPLET = re.compile(r"(?:^|\[)M:\s*(?P<beats>\w*)|\((?P<notes>[579])(?!\d|:\d)(?::(?=:))?", re.MULTILINE)
# Fields and chords are passed over: what is tied in a chord stays so.
_TIE = re.compile(
    rf"^(?:{_FIELD.pattern}|%%).*$|\[[^\]|\n]*\]|"
    r"(?P<note>(?P<pitch>[A-Ga-g][,']*)[\d/]*)-(?=[\s|:()<>\d]*[_^=]*(?P<next>[A-Ga-g][,']*))",
    re.MULTILINE,
)
_AFTER_BAR = re.compile(r"(?<=\|)(?=[\sA-Ga-gzxZX^_=(])")
_UPBEAT = re.compile(rf"{_INLINE}|(?<!\[)\||$")


def split_tunes(content: bytes) -> dict[str, bytes]:
    """The tunes of an ABC file, by their place in it: `1`, `2` and so on, because X: numbers come twice.

    A tune begins at its X: field and ends at an empty line, as the ABC standard has it: what follows, up to
    the next X:, is free text. The fields before the first tune are put before each. A file without any X:
    is one tune.
    """
    text = re.sub(rb"\r\n?", b"\n", content)
    head, *tunes = re.split(rb"^(?=X:)", text, flags=re.MULTILINE)
    if not tunes:
        return {"1": text}
    fields = b"".join(re.findall(rb"^(?:[A-Za-z]:|%%).*\n", head, re.MULTILINE))
    ended = [re.split(rb"^[ \t]*$", tune, maxsplit=1, flags=re.MULTILINE)[0] for tune in tunes]
    return {str(number): fields + tune for number, tune in enumerate(ended, start=1)}


def read_abc(text: str, played: bool = False) -> Written:
    """A tune; with `played`, its repeats are played. Raises InputError for what is no tune."""
    plain = _without_ornaments(text, played)
    upbeat = _up_to_first_bar(plain)
    score, *begins = _played([plain, upbeat] if upbeat else [plain])
    first_bar = float(begins[0].end()) / begins[0].ticks_per_quarter if begins else 0.0
    quarter = score.ticks_per_quarter
    parts = []
    for track in score.tracks:
        if track.is_drum or not len(track.notes):
            continue
        columns = track.notes.numpy()
        # A note sounds from a tick (of 480) after its onset to its end.
        onset, end = (columns["time"] - 1) / quarter, (columns["time"] + columns["duration"]) / quarter
        notes = np.stack([onset, end, columns["pitch"].astype(float)], axis=1)
        parts.append(Part(track.name, track.program, notes, np.zeros((0, 2))))
    meter = next(((one.numerator, one.denominator) for one in score.time_signatures), None)
    tempo = next((float(one.qpm) for one in score.tempos), None) if re.search(r"^Q:", text, re.M) else None
    meter = meter if re.search(r"^M:\s*[C\d(]", text, re.M) else None
    signature = next((int(one.key) for one in score.key_signatures), None)
    return Written(parts, tempo, meter, first_bar, signature)


def _without_ornaments(text: str, played: bool) -> str:
    lines, signs = list[str](), dict[str, str]()
    for line in _REMARK.sub(r"\1", text).splitlines():
        if not _FIELD.match(line) and not line.startswith("%%"):
            # abc2midi reads no further than some thousand letters of a line.
            lines += _AFTER_BAR.split(_bare(_signs_of_graces(line, signs), played))
        elif _PLAYED.match(line) and (played or not line.startswith("P:")):
            # abc2midi knows this word in an I: field alone.
            lines.append(line.replace("%%propagate", "I:propagate"))
    # A tune begins at its number: what the head of a book says comes after it. The notes of a chord begin
    # together, which abc2midi has to be told.
    lines = ["X:1", "%%MIDI chordattack 0", *(line for line in lines if not line.startswith("X:"))]
    plain = "\n".join(line for line in lines if line.strip()) + "\n"
    return _tuplets_in_full(_TIE.sub(_tied, plain))


def _signs_of_graces(line: str, signs: dict[str, str]) -> str:
    """The accidentals of grace notes hold for the bar: each is put before the next note of its pitch.

    `signs` has those that still wait for their note; it goes from line to line.
    """

    def signed(found: re.Match[str]) -> str:
        if found["bar"]:
            signs.clear()
        signs.update((pitch, sign) for sign, pitch in _SIGNED.findall(found["grace"] or ""))
        before = signs.pop(found["pitch"] or "", "")
        return found[0] if found["sign"] else before + found[0]

    return _PITCH.sub(signed, line)


def _tied(found: re.Match[str]) -> str:
    """Only notes of one pitch are tied; abc2midi loses notes where such signs follow one another."""
    return found[0] if found["next"] in (None, found["pitch"]) else found["note"]


def _tuplets_in_full(text: str) -> str:
    """`(5` as `(5:2`, in a compound meter `(5:3`: abc2midi sees no change of meter, and 3/4 as compound."""
    time = 2

    def in_full(found: re.Match[str]) -> str:
        nonlocal time
        if found["notes"]:
            return f"({found['notes']}:{time}"
        time = 3 if found["beats"] in ("6", "9", "12") else 2
        return found[0]

    return _TUPLET.sub(in_full, text)


def _bare(line: str, played: bool) -> str:
    def kept(found: re.Match[str]) -> str:
        return found[1] or ("\\" if found[0].startswith("\\") else "")

    bare = _NOT_PLAYED.sub(kept, line)
    if played:
        return bare
    parts = re.split(rf"({_INLINE})", bare)
    parts[::2] = [_REPEATED.sub("|", part) for part in parts[::2]]
    return "".join(parts)


def _up_to_first_bar(text: str) -> str:
    """The tune up to its first bar line; "" where nothing sounds before that."""
    head, music = [], ""
    for line in text.splitlines():
        if _FIELD.match(line) or line.startswith("%%"):
            head.append(line)
            continue
        end = next(found for found in _UPBEAT.finditer(line) if not found[0].startswith("["))
        music += line[: end.start()]
        if end[0] and re.search(r"[A-Ga-gzxZX]", music):
            break
        music += "\n" if music else ""
    return "\n".join([*head, f"{music}|", ""]) if re.search(r"[A-Ga-g]", music) else ""


def _played(tunes: Sequence[str]) -> list[Any]:
    """Tunes as scores of symusic, each of them numbered by its place from 1."""
    from symusic import Score

    program = str(files("symusic") / "bin" / "abc2midi")
    book = "\n".join(tune.replace("X:1\n", f"X:{number}\n", 1) for number, tune in enumerate(tunes, 1))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tune.abc").write_text(book, encoding="utf-8")
        words = [program, "tune.abc", "-silent", "-NGUI", "-NGRA", "-NFER", "-NFNP"]
        # Without close_fds a process is started in a fraction of the time, and waiting without a limit sees
        # its end at once: with one, it is asked for every now and then.
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(words, cwd=folder, stdout=quiet, stderr=quiet, close_fds=False)
        limit = threading.Timer(_SECONDS, process.kill)
        limit.start()
        try:
            process.wait()
        finally:
            too_long = limit.finished.is_set()
            limit.cancel()
            process.kill()  # of no effect on one that has ended
        if too_long:
            raise InputError(f"takes longer than {_SECONDS} s to play; leave it out")
        music = [Path(folder, f"tune{number}.mid") for number in range(1, len(tunes) + 1)]
        if not music[0].exists():
            raise InputError("damaged score (abc2midi finds no tune in it); export it again")
        if process.returncode != 0:
            raise InputError("longer than abc2midi can play, or it ends with an error; cut the tune up")
        return [Score(path) for path in music if path.exists()]
