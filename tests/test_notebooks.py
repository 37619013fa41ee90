"""The notebooks run from top to bottom, and carry no outputs."""

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own machinery
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("path", "devices"),
    [
        *(
            pytest.param(path, "2", marks=pytest.mark.slow if path.stem == "tpu" else [])
            for path in NOTEBOOKS
        ),
        # As on a machine of eight chips.
        pytest.param(NOTEBOOKS[0].with_name("tpu.ipynb"), "8", marks=pytest.mark.slow),
    ],
    ids=lambda given: getattr(given, "stem", given),
)
def test_a_notebook_runs_and_is_stripped(path, devices, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", devices)
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}})
    asyncio.run(client.async_execute())
    assert notebook.cells[-1].outputs
