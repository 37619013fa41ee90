"""Humdrum by its specification: for each kind of thing that was once misread, many small files that have it.

What is right was worked out by hand from the Humdrum User Guide (chapters 2, 5 and 6), the reference page of
**kern; `3%2` and `00`, which came later, by the documentation of verovio's Humdrum.

A file is written in one line: ` / ` ends a record, two spaces end a token. Where a file does not say so
itself, its spines are **kern in 2/4 from bar 1, and end with a double bar line. Expected notes are
`onset+duration pitch pitch …` in ticks of a twelfth of a quarter, from the first note.
"""

import re
from collections import defaultdict
from typing import Any

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music.scores import Score, read_score

Notes = list[tuple[int, int, int]]
SCALE = "0+12 60; 12+12 62; 24+24 64"  # 4c 4d | 2e


def kern(text: str) -> bytes:
    records = [re.sub(" {2,}", "\t", record) for record in text.split(" / ")]

    def row(token: str, beside: str) -> str:
        return "\t".join([token] * (beside.count("\t") + 1))

    if not any(record.startswith("**") for record in records):
        meter = [] if re.search(r"\*M\d", text) else [row("*M2/4", records[0])]
        bar = [] if "=1" in text else [row("=1", records[0])]
        records = [row("**kern", records[0]), *meter, *bar, *records]
    if not records[-1].startswith("!!!"):
        records += [row("==", records[-1]), row("*-", records[-1])]
    return ("\n".join(records) + "\n").encode()


def notes_of(text: str) -> Notes:
    notes = []
    for chord in text.split("; "):
        time, *pitches = chord.split()
        onset, duration = time.split("+")
        notes += [(int(onset), int(duration), int(pitch)) for pitch in pitches]
    return sorted(notes)


def parts_of(score: Score) -> list[Notes]:
    """Each part's notes; time counts from the first note of all."""
    parts: dict[int, Notes] = defaultdict(list)
    first = min(int(onset) for onset in score.notes[:, 0])
    for onset, duration, pitch, track in score.notes.tolist():
        parts[track].append((onset - first, duration, pitch))
    return [sorted(part) for part in parts.values()]


# A `*^` splits a spine, `*v` joins spines that are side by side, `*x` exchanges two: User Guide, chapter 5.
SPLIT = {
    "again after a join": (
        "*^ / 4c  4e / 4d  4f / *v  *v / =2 / 2e / =3 / *^ / 4f  2a / 4g  . / *v  *v / =4 / 2c",
        "0+12 60 64; 12+12 62 65; 24+24 64; 48+12 65; 48+24 69; 60+12 67; 72+24 60",
    ),
    "within a bar": ("4c / *^ / 4d  4f / *v  *v / =2 / 2e", "0+12 60; 12+12 62 65; 24+24 64"),
    "three voices that one record joins": (
        "*^ / *  *^ / 4c  4e  4g / 4d  4f  4a / *v  *v  *v / =2 / 2c",
        "0+12 60 64 67; 12+12 62 65 69; 24+24 60",
    ),
    "three voices joined one by one": (
        "*^ / *^  * / 2c  2e  2g / *v  *v  * / =2  =2 / 4d  4a / 4e  4b / *v  *v / =3 / 2c",
        "0+24 60 64 67; 24+12 62 69; 36+12 64 71; 48+24 60",
    ),
    "two spines by one record": (
        "*^  *^ / 2C  2E  2c  2e / *v  *v  *  * / *  *v  *v / =2  =2 / 2D  2d",
        "0+24 48 52 60 64; 24+24 50 62",
    ),
    "spines exchange their places": (
        "4C  4c / *x  *x / 4e  4D / *x  *x / =2  =2 / 2F  2f",
        "0+12 48; 12+12 50; 24+24 53 | 0+12 60; 12+12 64; 24+24 65",
    ),
    "voices exchange their places": (
        "*^ / 4c  4e / *x  *x / 4f  4d / *v  *v / =2 / 2g",
        "0+12 60 64; 12+12 62 65; 24+24 67",
    ),
    "two spines become one": ("2C  2c / *v  *v / =2 / 4D / 4E", "0+24 48 60; 24+12 50; 36+12 52"),
    "while the other spine holds": (
        "2C  4c / *  *^ / .  4d  4f / *  *v  *v / =2  =2 / 2D  2e",
        "0+24 48; 0+12 60; 12+12 62 65; 24+24 50 64",
    ),
    "over a bar line": (
        "*^ / 2c  2e / =2  =2 / 4d  4f / *v  *v / 4e",
        "0+24 60 64; 24+12 62 65; 36+12 64",
    ),
    "two of three spines become one": (
        "2C  2c  2g / *v  *v  * / =2  =2 / 2D  2a",
        "0+24 48 60 67; 24+24 50 69",
    ),
    "joined and split by one record": (
        "*^  * / 4C  4E  4c / *v  *v  *^ / 4D  4d  4f / *  *v  *v / =2  =2 / 2F  2g",
        "0+12 48 52 60; 12+12 50 62 65; 24+24 53 67",
    ),
    "three spines change places": (
        "2C  2e  2g / =2  =2  =2 / *x  *x  * / *  *x  *x / 2f  2a  2D",
        "0+24 48; 24+24 50 | 0+24 64; 24+24 65 | 0+24 67; 24+24 69",
    ),
    "never joined": ("*^ / 2c  2e / =2  =2 / 2d  2f", "0+24 60 64; 24+24 62 65"),
    "not by accents, bows and marks of editors": (
        "4c^ / 4dv / =2 / 4e^x / 4fu",
        SCALE.replace("24+24 64", "24+12 64; 36+12 65"),
    ),
}

# `*+` adds a spine, which the next record names; `*-` ends one: chapter 5.
ADDED = {
    "to the right": (
        "4c / 4d / =2 / *+ / *  **kern / 4e  4g / 4f  4a",
        "0+12 60; 12+12 62; 24+12 64 67; 36+12 65 69",
    ),
    "within a bar": (
        "4c / *+ / *  **kern / 4d  4f / =2  =2 / 2e  2g",
        "0+12 60; 12+12 62 65; 24+24 64 67",
    ),
    "between two": (
        "2C  2e / =2  =2 / *+  * / *  **kern  * / 2D  2A  2f",
        "0+24 48 64; 24+24 50 57 65",
    ),
    "while a note sounds": (
        "2C  4e / *  *+ / *  *  **kern / .  4f  4a / =2  =2  =2 / 2D  2g  2b",
        "0+24 48; 0+12 64; 12+12 65 69; 24+24 50 67 71",
    ),
    "one after another": (
        "2c / =2 / *+ / *  **kern / 2d  2f / =3  =3 / *  *+ / *  *  **kern / 2e  2g  2b",
        "0+24 60; 24+24 62 65; 48+24 64 67 71",
    ),
    "and split": (
        "2c / =2 / *+ / *  **kern / *  *^ / 2d  2f  2a / *  *v  *v / =3  =3 / 2e  2g",
        "0+24 60; 24+24 62 65 69; 48+24 64 67",
    ),
    "the last ends": (
        "2c  2e / =2  =2 / *  *- / 4d / 4f / =3 / 2g",
        "0+24 60 64; 24+12 62; 36+12 65; 48+24 67",
    ),
    "the first ends": ("2C  2e / =2  =2 / *-  * / 4f / 4g", "0+24 48 64; 24+12 65; 36+12 67"),
    "the first of three ends": (
        "2C  2e  2g / =2  =2  =2 / *-  *  * / 2f  2a",
        "0+24 48 64 67; 24+24 65 69",
    ),
    "the middle one ends": (
        "2C  2e  2g / =2  =2  =2 / *  *-  * / 2F  2a",
        "0+24 48; 24+24 53 | 0+24 64 | 0+24 67; 24+24 69",
    ),
    "one ends within a bar": ("4c  4e / *  *- / 4d / =2 / 2f", "0+12 60 64; 12+12 62; 24+24 65"),
    "one ends, one is added": (
        "2c  2e / =2  =2 / *  *- / 2d / =3 / *+ / *  **kern / 2f  2a",
        "0+24 60 64; 24+24 62; 48+24 65 69",
    ),
    "not notes but words": ("2c / =2 / *+ / *  **text / 4d  a / 4e  b", "0+24 60; 24+12 62; 36+12 64"),
    "not by flats": (
        "*k[b-e-]  *k[b-e-] / =1  =1 / 2BB-  4b- / .  4e- / =2  =2 / 2E-  2g",
        "0+24 46; 0+12 70; 12+12 63; 24+24 51 67",
    ),
}

# Letters are octaves, `#`, `-` and `n` accidentals of one note alone: **kern, Description.
PITCH = {
    "octaves upward": ("4c / 4cc / =2 / 4ccc / 4cccc", "0+12 60; 12+12 72; 24+12 84; 36+12 96"),
    "octaves downward": ("4B / 4C / =2 / 4CC / 4CCC", "0+12 59; 12+12 48; 24+12 36; 36+12 24"),
    "sharps, flats, naturals": ("4f# / 4fn / =2 / 4b- / 4bn", "0+12 66; 12+12 65; 24+12 70; 36+12 71"),
    "double accidentals": ("4f## / 4b-- / =2 / 4C## / 4ee--", "0+12 67; 12+12 69; 24+12 50; 36+12 74"),
    "a key signature alters nothing": (
        "*k[f#c#] / =1 / 4f / 4c / =2 / 4f# / 4cc#",
        "0+12 65; 12+12 60; 24+12 66; 36+12 73",
    ),
    "an accidental is of one note": ("4f# / 4f / =2 / 4b- / 4b", "0+12 66; 12+12 65; 24+12 70; 36+12 71"),
    "over the ends of an octave": ("4b# / 4cc- / =2 / 4B# / 4c-", "0+12 72; 12+12 71; 24+12 60; 36+12 59"),
    "before its duration": (
        "c4 / d4 / =2 / f#8L / 8gJ / a4",
        "0+12 60; 12+12 62; 24+6 66; 30+6 67; 36+12 69",
    ),
    "in chords": ("2C# 2E 2A / =2 / 2D- 2F 2GG#", "0+24 49 52 57; 24+24 49 53 44"),
    "marks of editors": ("4f#X / 4gnX / =2 / 4b-x / 4an", "0+12 66; 12+12 67; 24+12 70; 36+12 69"),
    "a minor key and its leading note": (
        "*k[b-e-a-] / *c: / =1 / 4e- / 4b / =2 / 2an",
        "0+12 63; 12+12 71; 24+24 69",
    ),
    "not by a clef with an octave": ("*clefGv2 / =1 / 4c / 4d / =2 / 2G", "0+12 60; 12+12 62; 24+24 55"),
}

# "Transposing instruments must be notated at (sounding) concert pitch": **kern, Description.
CLARINET = "{} / =1 / 4c / 4d / =2 / 2e"
TRANSPOSING = {
    **{
        name: (CLARINET.format(sign), SCALE)
        for name, sign in {
            "a clarinet in B flat": "*ITrd1c2",
            "a horn in F": "*ITrd4c7",
            "a clarinet in E flat": "*ITrd-2c-3",
            "a double bass": "*ITrd7c12",
            "a saxophone in E flat": "*ITrd5c9",
            "a bass clarinet": "*ITrd8c14",
            "a baritone saxophone": "*ITrd12c21",
            "a piccolo": "*ITrd-7c-12",
            "two octaves": "*ITrd14c24",
            "a trumpet in C": "*ITrd0c0",
            "a score that was transposed": "*Trd1c2",
            "not by an instrument's name": '*Iclars / *ICww / *I"Clarinet in B-flat',
        }.items()
    },
    "one spine of two": (
        "*ITrd1c2  * / =1  =1 / 2G  2e / =2  =2 / 2A  2f",
        "0+24 55; 24+24 57 | 0+24 64; 24+24 65",
    ),
    "in its key": ("*ITrd1c2 / *k[b-] / =1 / 4B- / 4c / =2 / 2f#", "0+12 58; 12+12 60; 24+24 66"),
    "the same again in the middle": ("*ITrd1c2 / =1 / 4c / 4d / =2 / *ITrd1c2 / 2e", SCALE),
    "another in the middle": ("*ITrd1c2 / =1 / 4c / 4d / =2 / *ITrd2c3 / 2e", SCALE),
    "tied and split": (
        "*ITrd4c7 / =1 / 4c / [4d / =2 / *^ / 4d]  4f / 4e  4g",
        "0+12 60; 12+24 62; 24+12 65; 36+12 64 67",
    ),
}

# `[` begins a tie, `_` goes on, `]` ends it: **kern, Description; slurs and phrases are none.
TIES = {
    "over a bar line": ("4c / [4d / =2 / 4d] / 4e", "0+12 60; 12+24 62; 36+12 64"),
    "over three bars": ("[2c / =2 / 2c_ / =3 / 4c] / 4d", "0+60 60; 60+12 62"),
    "one note of a chord": ("[4c 4e / 4c] 4f / =2 / 2g", "0+24 60; 0+12 64; 12+12 65; 24+24 67"),
    "all notes of a chord": ("[2c [2e [2g / =2 / 2c] 2e] 2g]", "0+48 60 64 67"),
    "into a split": ("[4c / *^ / 4c]  4e / *v  *v / =2 / 2d", "0+24 60; 12+12 64; 24+24 62"),
    "out of a split": (
        "*^ / 4c  [4g / 4d  4g_ / *v  *v / =2 / 2g]",
        "0+12 60; 12+12 62; 0+48 67",
    ),
    "unlike lengths": ("4.c / [8d / =2 / 4d] / 4e", "0+18 60; 18+18 62; 36+12 64"),
    "in one voice of two": (
        "*^ / [2c  4e / .  4f / =2  =2 / 2c]  4g / .  4a / *v  *v / =3 / 2b",
        "0+48 60; 0+12 64; 12+12 65; 24+12 67; 36+12 69; 48+24 71",
    ),
    "through an exchange of voices": (
        "*^ / [4c  4e / *x  *x / 4f  4c] / *v  *v / =2 / 2g",
        "0+24 60; 0+12 64; 12+12 65; 24+24 67",
    ),
    "with an accidental": ("[2f# / =2 / 4f#] / 4fn", "0+36 66; 36+12 65"),
    "one after another": ("[4c / 4c] / =2 / [4c / 4c]", "0+24 60; 24+24 60"),
    "in two spines": (
        "[2C  2c / =2  =2 / 4C]  [4d / 4D  4d]",
        "0+36 48; 36+12 50; 0+24 60; 24+24 62",
    ),
    "not slurs and phrases": ("(4c / 4c) / =2 / {4d / 4d}", "0+12 60; 12+12 60; 24+12 62; 36+12 62"),
}

# A number divides the whole note; dots add; 0 is a breve: **kern, Durations, and User Guide, chapter 6.
RHYTHM = {
    "eighth triplets": ("12c / 12d / 12e / 4f / =2 / 2g", "0+4 60; 4+4 62; 8+4 64; 12+12 65; 24+24 67"),
    "quarter triplets": ("6c / 6d / 6e / =2 / 2f", "0+8 60; 8+8 62; 16+8 64; 24+24 65"),
    "sixteenth triplets": (
        "24c / 24d / 24e / 24f / 24g / 24a / 4b",
        "0+2 60; 2+2 62; 4+2 64; 6+2 65; 8+2 67; 10+2 69; 12+12 71",
    ),
    "a dotted triplet": ("12.c / 24d / 12e / 4f", "0+6 60; 6+2 62; 8+4 64; 12+12 65"),
    "dots": ("4.c / 8d / =2 / 8.e / 16f / 4g", "0+18 60; 18+6 62; 24+9 64; 33+3 65; 36+12 67"),
    "two dots": ("4..c / 16d / =2 / 2e", "0+21 60; 21+3 62; 24+24 64"),
    "breves": ("*M4/2 / =1 / 0c / =2 / 1d / 1e", "0+96 60; 96+48 62; 144+48 64"),
    "a dotted breve": ("*M6/2 / =1 / 0.c / =2 / 0d / 1e", "0+144 60; 144+96 62; 240+48 64"),
    "longs": ("*M8/2 / =1 / 00c / =2 / 0d / 0e", "0+192 60; 192+96 62; 288+96 64"),
    "three wholes in a breve": (
        "*M4/2 / =1 / 3%2c / 3%2d / 3%2e / =2 / 0f",
        "0+32 60; 32+32 62; 64+32 64; 96+96 65",
    ),
    "three halves of a whole": ("*M3/2 / =1 / 2%3c / =2 / 1.d", "0+72 60; 72+72 62"),
    # 2.4 ticks each: what is nearest to 2.4, 4.8, 7.2, 9.6.
    "quintuplets": (
        "20c / 20d / 20e / 20f / 20g / 4a",
        "0+2 60; 2+3 62; 5+2 64; 7+3 65; 10+2 67; 12+12 69",
    ),
    "not rational": ("*M4/4 / =1 / 3c / 3d / 3e / =2 / 1f", "0+16 60; 16+16 62; 32+16 64; 48+48 65"),
}

# `q` has no duration; an appoggiatura `P` and its note `p` are encoded as performed; `r` rests.
GRACE = {
    "before the first note": ("8qd / 4c / 4e / =2 / 2f", "0+12 60; 12+12 64; 24+24 65"),
    "without a number": ("4c / G#q / 4d / =2 / 2e", SCALE),
    "two of them": ("4c / 16qqdLL / 16qqeJJ / 4d / =2 / 2e", SCALE),
    "at the end of a bar": ("4c / 4d / 8qf / =2 / 2e", SCALE),
    "in a chord": ("*M4/4 / 4c 8qe- 4g / 4d / 2e", "0+12 60 67; 12+12 62; 24+24 64"),
    "a chord of them": ("4c / 8qe 8qg / 4d / =2 / 2e", SCALE),
    "while the other spine holds": (
        "2C  4c / .  8qf / .  4d / =2  =2 / 2D  2e",
        "0+24 48; 0+12 60; 12+12 62; 24+24 50 64",
    ),
    "in one voice of two": (
        "*^ / 4c  4e / 8qa  . / 4d  4f / *v  *v / =2 / 2g",
        "0+12 60 64; 12+12 62 65; 24+24 67",
    ),
    "a rest first": ("4r / 4c / =2 / 8d / 8r / 4e", "0+12 60; 12+6 62; 24+12 64"),
    "a bar of rest": ("2c / =2 / 2rr / =3 / 2d", "0+24 60; 48+24 62"),
    "rests that are not drawn": ("4c / 4ryy / =2 / 4d / 4ry", "0+12 60; 24+12 62"),
    "a rest in one voice": ("*^ / 4c  4r / 4d  4f / *v  *v / =2 / 2e", "0+12 60; 12+12 62 65; 24+24 64"),
    "not an appoggiatura as it is performed": (
        "8Pd / 8pc / 4e / =2 / 2f",
        "0+6 62; 6+6 60; 12+12 64; 24+24 65",
    ),
    "not trills, mordents and turns": ("4cT / 4dM / =2 / 4eW / 4fS", "0+12 60; 12+12 62; 24+12 64; 36+12 65"),
}

# Comments, null tokens and spines of other things have no notes: chapters 2 and 5.
DUET = "0+12 48 60; 12+12 50 62; 24+24 52 64"
BESIDE = {
    "comments and reference records": (
        "!!!COM: Bach / **kern / *M2/4 / =1 / 4c / !! 4d / 4d / =2 / 2e / == / *- / !!!ENC: 4e",
        SCALE,
    ),
    "comments of a spine": ("4C  4c / !LO:TX:t=4d  !4e / 4D  4d / =2  =2 / !  !2f / 2E  2e", DUET),
    "dynamics between": (
        "**kern  **dynam  **kern / *M2/4  *  *M2/4 / =1  =1  =1 / 4C  p  4c / 4D  f  4d / =2  =2  =2 / "
        "2E  .  2e",
        DUET,
    ),
    "words that are names of notes": (
        "**kern  **text / *M2/4  * / =1  =1 / 4c  d / 4d  4e / =2  =2 / 2e  f",
        SCALE,
    ),
    "words of two verses that split": (
        "**kern  **text / *M2/4  * / =1  =1 / *  *^ / 4c  a  b / 4d  a  b / *  *v  *v / =2  =2 / 2e  f",
        SCALE,
    ),
    "harmony first": (
        "**harm  **kern / *  *M2/4 / =1  =1 / I  4c / V  4d / =2  =2 / IVb  2e",
        SCALE,
    ),
    "durations alone": ("**recip  **kern / *  *M2/4 / =1  =1 / 4  4c / 4  4d / =2  =2 / 2  2e", SCALE),
    "null tokens": (
        "2C  4c / .  4d / =2  =2 / 4D  2e / 4E  .",
        "0+24 48; 0+12 60; 12+12 62; 24+12 50; 36+12 52; 24+24 64",
    ),
    "null tokens in all spines": ("4C  4c / .  . / 4D  4d / .  . / =2  =2 / 2E  2e", DUET),
    "null tokens in all spines behind a bar line": ("4C  4c / 4D  4d / =2  =2 / .  . / 2E  2e", DUET),
    "clefs and keys within a bar": (
        "4c / *clefF4 / *k[f#] / *G: / 4D / =2 / 2E",
        "0+12 60; 12+12 50; 24+24 52",
    ),
    "signs on notes": (
        "(8c/L' / 8d/J~) / {4e\\; / =2 / 4fT} / 4g`",
        "0+6 60; 6+6 62; 12+12 64; 24+12 65; 36+12 67",
    ),
    "not repeats as they are played": (
        "2c / =2:|! / 2d / =3|| / 2e",
        "0+24 60; 24+24 62; 48+24 64",
    ),
}

KINDS = {
    "split": SPLIT,
    "added": ADDED,
    "pitch": PITCH,
    "transposing": TRANSPOSING,
    "ties": TIES,
    "rhythm": RHYTHM,
    "grace and rests": GRACE,
    "beside": BESIDE,
}

# `*M` is the meter; `*MM` the tempo, always in quarters a minute (User Guide, chapter 6).
SIGNS: dict[str, tuple[str, tuple[int, int] | None, float | None]] = {
    "3/4": ("*M3/4 / =1 / 2.c", (3, 4), None),
    "6/8 counts in quarters": ("*M6/8 / *MM60 / =1 / 2.c", (6, 8), 60),
    "alla breve": ("*M2/2 / *met(c|) / =1 / 1c", (2, 2), None),
    "common time": ("*M4/4 / *met(c) / *MM96 / =1 / 1c", (4, 4), 96),
    "5/16": ("*M5/16 / =1 / 8c / 8.d", (5, 16), None),
    "12/8": ("*M12/8 / *MM132 / =1 / 1.c", (12, 8), 132),
    "a fraction": ("*MM96.3 / =1 / 2c", (2, 4), 96.3),
    "the tempo before the meter": ("**kern / *MM132 / *M3/4 / =1 / 2.c", (3, 4), 132),
    "the first of two tempi": ("*MM120 / =1 / 2c / =2 / *MM60 / 2d", (2, 4), 120),
    "the first of two meters": ("*M2/4 / =1 / 2c / =2 / *M3/4 / 2.d", (2, 4), None),
    "in the second spine": ("*  *MM90 / =1  =1 / 2C  2c", (2, 4), 90),
    "after the bar line": ("=1 / *MM80 / 2c / =2 / 2d", (2, 4), 80),
    "no meter": ("**kern / =1 / 2c / =2 / 2d", None, None),
    "not tempi in words": ("*MM[Allegro] / =1 / 2c", (2, 4), None),
    "not in comments": ("!! *M3/4 *MM300 / **kern / *M2/4 / =1 / 2c", (2, 4), None),
}

# Ticks from the first note to the first bar line, where the bar before it is short.
UPBEATS = {
    "a quarter": ("4c / =1 / 2d / =2 / 2e", 12),
    "an eighth": ("8c / =1 / 2d / =2 / 2e", 6),
    "two quarters of three": ("*M3/4 / 4c / 4d / =1 / 2.e / =2 / 2.f", 24),
    "an eighth of 6/8": ("*M6/8 / 8c / =1 / 4.d / 4.e / =2 / 2.f", 6),
    "triplets": ("12c / 12d / 12e / =1 / 2f / =2 / 2g", 12),
    "two spines": ("4C  8c / .  8d / =1  =1 / 2D  2e / =2  =2 / 2E  2f", 12),
    "a voice that splits": ("*^ / 4c  4e / *v  *v / =1 / 2d / =2 / 2f", 12),
    "a rest first": ("8r / 8c / =1 / 2d / =2 / 2e", 6),
    "a grace note first": ("8qd / 4c / =1 / 2e / =2 / 2f", 12),
    "in a tie": ("[4c / =1 / 2c] / =2 / 2d", 12),
    "three quarters of 4/4": ("*M4/4 / 4c / 4d / 4e / =1 / 1f / =2 / 1g", 36),
    "not a whole bar": ("=1 / 2c / =2 / 2d", 0),
    "not a whole bar without its line": ("**kern / *M2/4 / 2c / =2 / 2d", 0),
    "not behind a line that is not drawn": ("=1- / 2c / =2 / 2d", 0),
    "not a short bar within": ("=1 / 2c / =2 / 4d / =:|! / 4e / =3 / 2f", 0),
}


def cases(kind: str, table: dict[str, Any]) -> list[Any]:
    return [pytest.param(*case, id=f"{kind}: {name}") for name, case in table.items()]


@pytest.mark.parametrize(
    ("text", "notes"), [case for kind, table in KINDS.items() for case in cases(kind, table)]
)
def test_notes_are_those_that_are_written(text: str, notes: str) -> None:
    """With ` | ` between them, the notes of each part."""
    found = parts_of(read_score(".krn", kern(text)))
    if "|" in notes:
        assert sorted(found) == sorted(notes_of(part) for part in notes.split(" | "))
    else:
        assert sorted(note for part in found for note in part) == notes_of(notes)


@pytest.mark.parametrize(
    "text",
    [
        "4c  4e / *  **text / 4d  a / =2  =2 / 2f  b",  # manual page of rend
        "**kern / *M2/4 / =1 / 2c / *- / **kern / =2 / 2d",  # chapter 5
    ],
    ids=["a spine turns into another", "all end, and new ones begin"],
)
def test_what_verovio_would_lose_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError, match="a spine turns into another, or another score begins; save each"):
        read_score(".krn", kern(text))


@pytest.mark.parametrize(("text", "meter", "tempo"), cases("signs", SIGNS))
def test_meter_and_tempo(text: str, meter: tuple[int, int] | None, tempo: float | None) -> None:
    score = read_score(".krn", kern(text))
    assert (score.meter, score.tempo) == (meter, tempo and pytest.approx(tempo))


@pytest.mark.parametrize(("text", "upbeat"), cases("upbeat", UPBEATS))
def test_upbeats(text: str, upbeat: int) -> None:
    score = read_score(".krn", kern(text))
    first = min(int(onset) for onset in score.notes[:, 0])
    assert (score.first_bar and score.first_bar - first) == upbeat
