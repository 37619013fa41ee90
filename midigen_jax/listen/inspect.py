"""What is in some music or in a corpus, as one HTML file that a browser opens from disk.

In: an `Inspection`, which was counted before. Out: HTML that carries its pictures in itself and may ask
nothing of any network.
"""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from midigen_jax.listen import findings
from midigen_jax.listen.bars import Chart
from midigen_jax.listen.chord_charts import draw_vocabulary
from midigen_jax.listen.page import INSPECTION, check_free, data_uri, write_page
from midigen_jax.listen.pianoroll import draw
from midigen_jax.listen.pitch_charts import draw_keys, draw_pitches, draw_polyphony
from midigen_jax.listen.svg import svg
from midigen_jax.listen.tables import corpus_table, settings_table
from midigen_jax.listen.time_charts import draw_durations, draw_meters, draw_tempos
from midigen_jax.music.census import Inspection, Opening


def write_inspection(found: Inspection, out: Path) -> None:
    """Write what was found to the file `out`.

    Raises InputError when `out` is a folder or a file that is not an earlier inspection.
    """
    check_free(INSPECTION, out)
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
        pitch_charts=[_embed(draw_pitches(census)), _embed(draw_keys(census))],
        time_charts=[
            _embed(draw_chart(census))
            for draw_chart in (draw_durations, draw_polyphony, draw_tempos, draw_meters)
        ],
        vocabulary=[_embed(draw_vocabulary(census))],
        commonest=findings.commonest(found),
        refusals=findings.refusals(found),
        commands=_commands(found, out),
        settings=settings_table({"prepare": found.manifest["config"]}) if is_corpus else {},
    )


def _embed(chart: Chart) -> tuple[Markup, str]:
    """The picture, and its sentence, in which no line begins with a %."""
    return Markup(svg(chart.figure)), chart.sentence.replace(" %", "\N{NO-BREAK SPACE}%")


def _draw_rolls(openings: Sequence[Opening]) -> Iterator[tuple[str, str, str]]:
    """The name, key, tempo and meter of each piece, and its first bars as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        for number, opening in enumerate(openings):
            place = Path(folder) / f"{number}.png"
            draw(opening.notes, place, meter=opening.meter)
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
