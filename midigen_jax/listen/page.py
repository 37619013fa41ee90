"""What the pages of this room have in common: one HTML file that needs nothing else and spoils no other.

In: a template's values. Out: HTML that carries its pictures and sounds in itself and may ask nothing of any
network.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from midigen_jax import __version__
from midigen_jax.errors import InputError
from midigen_jax.files import replacing
from midigen_jax.listen import audio, check_installed, pianoroll

_MEDIA = {
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
    ".mid": "audio/midi",
    ".png": "image/png",
}
SOUNDS = (".mp3", ".ogg", ".wav")


@dataclass(frozen=True)
class Kind:
    """A kind of page."""

    noun: str
    template: str
    generator: str
    """what its files say that they were made by: tells them from files of others"""

    @property
    def mark(self) -> str:
        return f'<meta name="generator" content="{self.generator}">'


REPORT = Kind("report", "report.html.jinja", "midigen-jax")
INSPECTION = Kind("page of `midigen inspect`", "inspect.html.jinja", "midigen-jax inspect")
STUDY = Kind("page of a study", "study.html.jinja", "midigen-jax ablate")


class Sample(NamedTuple):
    """One piece that a model wrote; each file as a data URI, or "" where there is none."""

    name: str
    audio: str
    picture: str
    midi: str


def read_sample(folder: Path, name: str) -> Sample:
    """The piece of that name in `folder`; of its sounds the first format that there is."""
    sounds = (data_uri(folder / f"{name}{suffix}") for suffix in SOUNDS)
    picture, midi = (data_uri(folder / f"{name}{suffix}") for suffix in (".png", ".mid"))
    return Sample(name, next(filter(None, sounds), ""), picture, midi)


def check_free(kind: Kind, out: Path) -> None:
    """Raises InputError where no page can be written, or anything but an earlier one of this kind is."""
    check_installed()
    folder = next(parent for parent in out.parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{out.parent}: cannot be made ({folder} is a file); give another --out")
    if out.is_dir():
        example = out / f"{kind.template.partition('.')[0]}.html"
        raise InputError(f"{out} is a folder: give --out the name of a file, such as {example}")
    if out.is_file():
        with out.open(encoding="utf-8", errors="replace") as file:
            if kind.mark not in file.read(1000):
                raise InputError(
                    f"{out} is there and is no {kind.noun}: give --out another name, or remove it"
                )


def write_page(kind: Kind, out: Path, **values: Any) -> None:
    """Fill the template of `kind` and write it to `out`. Raises InputError as `check_free`."""
    check_free(kind, out)
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("midigen_jax.listen", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    roll = {"left": pianoroll.LEFT, "right": pianoroll.RIGHT, "tail": audio.TAIL_SECONDS}
    page = environment.get_template(kind.template).render(
        mark=kind.mark, version=__version__, roll=roll, **values
    )
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")


def data_uri(path: Path) -> str:
    """The file at `path` as a data URI, or "" where there is none."""
    if not path.is_file():
        return ""
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
