"""A model's network, part by part, in words and as a picture.

In: a run or a model of the package. Out: lines of a table; on request a picture of it.
"""

from pathlib import Path

from midigen_jax.errors import InputError
from midigen_jax.listen import check_installed
from midigen_jax.listen.figures import save
from midigen_jax.listen.network import draw_network
from midigen_jax.model.summary import parts, table
from midigen_jax.train.pretrained import load_model


def describe_network(run: str, out: str | None) -> list[str]:
    """Its parts with their widths, parameters and costs; with `out`, an .svg or .png file, also drawn.

    Raises InputError for another suffix, and as `load_model` does.
    """
    if out is not None:
        if Path(out).suffix not in (".svg", ".png"):
            raise InputError(f"--out {out}: a model is drawn as .svg or .png; give a file that ends so")
        check_installed()
    found = parts(load_model(run).network)
    if out is None:
        return table(found)
    save(draw_network([part._asdict() for part in found]), Path(out))
    return [*table(found), f"Picture in {out}."]
