"""The best checkpoint of a run as one file that needs nothing else: how the models of the package are made.

python scripts/export_model.py results/bach/seed-0 midigen_jax/pretrained/chorales.npz
"""

import argparse
import sys
from pathlib import Path

from midigen_jax.errors import InputError
from midigen_jax.streams import silence_orbax
from midigen_jax.train.pretrained import load_model, write_model


def main() -> int:
    """Export one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a folder that `midigen train` made, or one of a recipe's seeds")
    parser.add_argument("out", type=Path, help="the file, which ends in .npz")
    given = parser.parse_args()
    silence_orbax()
    try:
        if given.out.suffix != ".npz":
            raise InputError(f"{given.out}: give a file that ends in .npz")
        write_model(load_model(given.run), given.out)
    except InputError as error:
        print(f"export_model.py: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
