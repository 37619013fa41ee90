"""The table of a study, in Markdown, LaTeX and CSV.

In: its rows. Out: files in its folder, an arm a line.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from midigen_jax.files import replacing
from midigen_jax.rows import Row

_HEAD = (
    "arm",
    "seeds",
    "{metric}",
    "difference from base",
    "P(better)",
    "p (Holm)",
    "parameters",
    "training flop",
    "s a run",
    "events/s",
)
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def write_tables(found: Sequence[Row], out: Path) -> None:
    """`table.md`, `table.tex` and `table.csv` in the folder `out`."""
    lines = table(found)
    width = len(lines[0])
    ruled = (lines[0], ("---",) * width, *lines[1:])
    markdown = "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in ruled)
    head, *body = (" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in lines)
    begin, end = f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\end{tabular}"
    latex = [begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end]
    with replacing(out / "table.md") as partial:
        partial.write_text(markdown, encoding="utf-8")
    with replacing(out / "table.tex") as partial:
        partial.write_text("\n".join(latex) + "\n", encoding="utf-8")
    with replacing(out / "table.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)


def _escaped(cell: str) -> str:
    """A cell of a Markdown table."""
    return cell.replace("|", r"\|")


def table(found: Sequence[Row]) -> list[tuple[str, ...]]:
    """The lines, head first: arms in the order of their rows, the base before the others."""
    found = [row for row in found if "arm" in row["config"]]
    arms = list(dict.fromkeys(row["config"]["arm"] for row in found))
    by_name = {(row["config"]["arm"], row["name"].removeprefix("ablate.")): row for row in found}
    levels = [name for (_, name), row in by_name.items() if "seeds" in row]
    main = levels[0] if levels else "nats_per_unit"
    lines = [tuple(cell.format(metric=main.replace("_", " ")) for cell in _HEAD)]
    for arm in arms:
        level, apart = by_name.get((arm, main)), by_name.get((arm, "difference"))
        costs = [
            by_name.get((arm, name))
            for name in ("parameters", "train_flops", "train_seconds", "decode_events_per_s")
        ]
        failed = (arm, "failed") in by_name
        lines.append(
            (
                arm,
                str(len(level["seeds"])) if level else "0",
                _interval(level, "{:.3f}") if level else "failed" if failed else "",
                _interval(apart, "{:+.3f}") if apart else "",
                f"{apart['better']:.2f}" if apart else "",
                f"{apart['p_corrected']:.3f}" if apart else "",
                *(_short(row["value"]) if row else "" for row in costs),
            )
        )
    return lines


def _interval(row: Row, form: str) -> str:
    return f"{form.format(row['value'])} [{form.format(row['low'])}, {form.format(row['high'])}]"


def _short(value: float) -> str:
    """Three digits, and whole numbers as far as people read them."""
    return f"{value:,.0f}" if 100 <= value < 1e9 else f"{value:.3g}"
