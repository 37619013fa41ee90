"""Collections of the music21 package that have a name."""

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music.read import find_sources, read_piece


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("oneills1850", 2009, "oneills1850/0001-0050.abc/1"),
        ("ryansMammoth", 1059, "ryansMammoth/7thRegimentReel.abc"),
    ],
)
def test_a_collection_is_found_by_name_and_can_be_read(name: str, count: int, first: str) -> None:
    found = find_sources([name])
    assert (len(found), found[0].name) == (count, first)
    assert len(read_piece(found[0]).notes) > 50


def test_a_misspelt_collection_is_named() -> None:
    with pytest.raises(InputError, match=r"did you mean ryansMammoth\?"):
        find_sources(["ryanMammoth"])


def test_what_its_headers_reserve_has_no_name() -> None:
    with pytest.raises(InputError, match="not there"):
        find_sources(["palestrina"])
