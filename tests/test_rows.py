"""Rows: what was appended is what is read, whatever interrupts the writer."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax import rows
from midigen_jax.errors import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=4)


@given(ROWS, ROWS)
def test_any_rows_are_read_as_they_were_appended(
    tmp_path_factory: pytest.TempPathFactory, first: list[rows.Row], second: list[rows.Row]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "folder" / "rows.jsonl"
    rows.append(path, first)
    rows.append(path, second)
    assert rows.read(path) == first + second


@given(ROWS, st.data())
def test_any_cut_loses_the_last_row_alone_for_the_reader_and_the_next_writer(
    tmp_path_factory: pytest.TempPathFactory, written: list[rows.Row], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.append(path, [*written[:-1], {**written[-1], "name": "größe"}])
    content = path.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    path.write_bytes(content[: data.draw(st.integers(last, len(content) - 2))])
    assert rows.read(path) == written[:-1]
    rows.append(path, [{"name": "next"}])
    assert rows.read(path) == [*written[:-1], {"name": "next"}]


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "a"}')
    rows.append(path, [{"name": "b"}])
    assert rows.read(path) == [{"name": "a"}, {"name": "b"}]


@pytest.mark.parametrize(("line", "complaint"), [('{"name": ', "no JSON"), ("[1]", "not a row")])
def test_a_broken_line_inside_the_file_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"name": "a"}}\n{line}\n{{"name": "b"}}\n')
    with pytest.raises(InputError, match=rf"rows\.jsonl, line 2: {complaint}"):
        rows.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: no rows there"):
        rows.read(tmp_path / "none.jsonl")


def test_rewrite_replaces_all_or_nothing_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.append(path, [{"name": "a"}])
    rows.rewrite(path, [{"name": "b"}])
    assert rows.read(path) == [{"name": "b"}]
    with pytest.raises(TypeError):
        rows.rewrite(path, [{"name": "c"}, {"name": object()}])
    assert rows.read(path) == [{"name": "b"}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_says_where_and_when_and_with_what_it_was_made() -> None:
    row = rows.make("train.loss", 1.5, "nats", seed=3)
    assert (row["name"], row["value"], row["unit"], row["seed"]) == ("train.loss", 1.5, "nats", 3)
    assert {"device", "commit", "time"} <= row.keys()
    assert {"midigen-jax", "python", "jax", "numpy"} <= row["versions"].keys()
    assert json.loads(json.dumps(row)) == row


def test_the_device_is_the_accelerator_once_jax_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    assert rows.device().endswith(" cores")
    accelerated = SimpleNamespace(
        default_backend=lambda: "gpu",
        devices=lambda: [SimpleNamespace(device_kind="H100")],
        device_count=lambda: 8,
    )
    monkeypatch.setitem(sys.modules, "jax", accelerated)
    assert rows.device() == "H100 x 8"
