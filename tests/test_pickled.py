"""Pickled arrays are read as data: numbers come out, and no call is ever made."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from midigen_jax.errors import InputError
from midigen_jax.music.pickled import arrays_of

BENCHMARK = Path(__file__).resolve().parents[2] / "shared" / "data" / "Jsb16thSeparated.npz"
MATRICES = arrays.arrays(
    st.one_of(
        arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes(sizes=(16, 32, 64))
    ),
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5),
)


def listed(elements: list[Any]) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


@given(st.lists(MATRICES, max_size=4), st.sampled_from([3, 4]), st.booleans())
def test_any_arrays_come_back(matrices: list[np.ndarray], protocol: int, by_columns: bool) -> None:
    if by_columns:
        matrices = [np.asfortranarray(matrix) for matrix in matrices]
    again = arrays_of(pickle.dumps(listed(matrices), protocol))
    assert len(again) == len(matrices)
    for one, other in zip(again, matrices, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not BENCHMARK.is_file(), reason="the benchmark is not beside the checkout")
def test_what_python_2_wrote_is_read() -> None:
    with zipfile.ZipFile(BENCHMARK) as archive:
        stream = io.BytesIO(archive.read("test.npy"))
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    chorales = arrays_of(stream.read())
    assert (len(chorales), chorales[0].shape, str(chorales[0].dtype)) == (77, (228, 4), "float16")
    assert chorales[0][0].tolist() == [65, 60, 57, 53]


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_anything_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    made = str(tmp_path / "made")
    mischief = [Calls(os.mkdir, made), Calls(eval, f"__import__('os').mkdir({made!r})")]
    for harm in mischief:
        for value in (harm, listed([harm]), listed([np.zeros((1, 2)), harm])):
            with pytest.raises(InputError, match="do not trust it") as caught:
                arrays_of(pickle.dumps(value, protocol))
            assert "\n" not in str(caught.value)
    assert not os.path.exists(made)
    pickle.loads(pickle.dumps(mischief[1], protocol))
    assert os.path.exists(made), "what was refused does what it is feared for"


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b".",
        b"]q\x00(h\x00h\x00e.",
        b"h\x07.",
        b"R.",
        b"(K\x01K\x02b.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R.",
        pickle.dumps([1, 2], 4),
        pickle.dumps(np.zeros(2), 4),
        pickle.dumps(listed(["text"]), 4),
        pickle.dumps(listed([[1, 2], [3]]), 4),
        pickle.dumps(listed([np.zeros(1, "datetime64[s]")]), 4),
        pickle.dumps(listed([np.zeros(9)]), 4)[:-40],
    ],
)
def test_what_is_no_list_of_arrays_is_refused_in_one_line(stream: bytes) -> None:
    with pytest.raises(InputError, match=r"damaged array|do not trust it") as caught:
        arrays_of(stream)
    assert "\n" not in str(caught.value)
