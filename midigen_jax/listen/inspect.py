"""What is in some music or in a corpus, as one HTML file that a browser opens from disk.

In: an `Inspection`, which was counted before. Out: HTML that carries its pictures in itself and may ask
nothing of any network.
"""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from midigen_jax.listen import charts, findings
from midigen_jax.listen.figures import svg
from midigen_jax.listen.page import INSPECTION, data_uri, write_page
from midigen_jax.listen.pianoroll import draw
from midigen_jax.listen.tables import corpus_table, settings_table
from midigen_jax.music.census import Inspection, Opening

_CHARTS = {
    "pitch": (charts.draw_pitches, charts.draw_keys),
    "time": (charts.draw_durations, charts.draw_polyphony, charts.draw_tempos, charts.draw_meters),
    "vocabulary": (charts.draw_vocabulary,),
}


def write_inspection(found: Inspection, out: Path) -> None:
    """Write what was found to the file `out`.

    Raises InputError when `out` is a folder or a file that is not an earlier inspection.
    """
    census = found.census
    is_corpus = bool(found.manifest)
    write_page(
        INSPECTION,
        out,
        name=findings.title(found),
        is_corpus=is_corpus,
        lead=findings.lead(found),
        notices=findings.notices(found),
        tables={
            "What was counted": findings.figures(found),
            "The corpus": corpus_table(found.manifest["summary"]) if is_corpus else [],
        },
        splits=findings.by_split(found),
        rolls=list(_draw_rolls(found.openings)),
        charts={part: [_embed(draw_of(census)) for draw_of in draws] for part, draws in _CHARTS.items()},
        commonest=findings.commonest(found),
        refusals=findings.refusals(found),
        commands=_commands(found, out),
        settings=settings_table({"prepare": found.manifest["config"]}) if is_corpus else {},
    )


def _embed(chart: charts.Chart) -> tuple[str, str]:
    """The picture, and its sentence, in which no line begins with a %."""
    return svg(chart.figure), chart.sentence.replace(" %", "\N{NO-BREAK SPACE}%")


def _draw_rolls(openings: Sequence[Opening]) -> Iterator[tuple[str, str, str]]:
    """The name, key, tempo and meter of each piece, and its first bars as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        for number, opening in enumerate(openings):
            place = Path(folder) / f"{number}.png"
            draw(
                opening.notes,
                place,
                meter=opening.meter,
                first_bar=opening.first_bar,
                clock=opening.clock,
            )
            above, below = opening.meter
            about = f"{opening.key} · {opening.tempo:.4g} quarters a minute · {above}/{below}"
            yield opening.name, about, data_uri(place)


def _commands(found: Inspection, out: Path) -> list[tuple[str, str]]:
    """What to do next, as (why, command line)."""
    given, page = shlex.join(found.arguments), shlex.quote(str(out))
    stem = Path(found.arguments[0]).resolve().stem
    again = ("Make this page again", f"midigen inspect {given} --out {page}")
    run, corpus = shlex.quote(f"runs/{stem}"), shlex.quote(f"corpora/{stem}")
    chords, seen = shlex.quote(f"corpora/{stem}-chords"), shlex.quote(f"{stem}-corpus.html")
    if found.manifest:
        return [
            ("Train a model on it", f"midigen train {given} --out {run}"),
            ("Then hear what it writes", f"midigen generate {run} --out {shlex.quote(f'{stem}-music')}"),
            again,
        ]
    return [
        ("Make a corpus of it, to train on", f"midigen prepare {given} --out {corpus}"),
        (
            "Or one of chords, all moved to C major and A minor",
            f"midigen prepare {given} --out {chords} --tokenizer chord --transpose C",
        ),
        ("Then look at the corpus, split by split", f"midigen inspect {corpus} --out {seen}"),
        again,
    ]
