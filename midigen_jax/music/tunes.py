"""Tunebooks: an ABC file as single tunes, each with what the head of the file says for all.

In: the bytes of a file. Out: the bytes of its tunes, and the text of one as music21 should see it.
"""

import re


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


def as_read_today(content: bytes) -> str:
    """The text of a tune such that music21 takes it as other programs do.

    Without a version it would end a sharp at its note, not at the bar line; and without meter and note
    length it gives up, where the standard counts in eighths.
    """
    text = "%abc-2.1\n" + re.sub(r"^%abc-[\d.]*", "%", decoded(content), flags=re.MULTILINE)
    if re.search(r"^(L:|M:[ \t]*(?!none)\S)", text, re.MULTILINE):
        return text
    return re.sub(r"^K:", "L:1/8\nK:", text, count=1, flags=re.MULTILINE)


def decoded(content: bytes) -> str:
    """Text that says nothing of its encoding: UTF-8, or else Latin-1, as older files are."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")
