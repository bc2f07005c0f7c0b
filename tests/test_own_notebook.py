"""Notebook 04 with pictures of one's own: everything is made."""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from paperlib.reproduce import _execute

NOTEBOOK = Path(__file__).parents[1] / "notebooks/04_your_own.ipynb"


@pytest.fixture
def pictures(tmp_path):
    """Noise, brighter from class to class, of another size than the network's."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for k, name in enumerate(("a", "b", "c")):
            folder = tmp_path / "own pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 80 * (k + 1), (40, 50, 3), dtype=np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.jpg")
    return tmp_path / "own pictures"


def test_the_notebook_makes_everything_for_a_folder_of_ones_own(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PAPERLIB_DATA", str(tmp_path))
    kept, target = tmp_path / "kept", tmp_path / "executed.ipynb"
    sizes = {"SIDE": 32, "EPOCHS": 1, "STUDENT_EPOCHS": 1}
    _execute(NOTEBOOK, target, {"FOLDER": str(pictures), "KEPT": str(kept)} | sizes)
    made = {path.name: pd.read_csv(path) for path in kept.glob("*.csv")}
    assert made["pictures.csv"]["pictures"].tolist() == [36, 12]
    assert len(made["ranking.csv"]) == 10 and (made["ranking.csv"]["images"] == 36).all()
    assert made["students.csv"]["loss"].notna().all() and len(made["students.csv"]) == 3
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    _execute(NOTEBOOK, target, {"KEPT": str(kept)} | sizes)  # without the pictures
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before
    outputs = [o for cell in nbformat.read(target, 4).cells for o in cell.get("outputs", ())]
    assert not any(o.get("name") == "stderr" for o in outputs)


def test_the_explorer_has_sliders_where_somebody_looks(tmp_path, monkeypatch):
    """Where nobody looks it has figures, which nbval checks."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JPY_SESSION_NAME", "explore")
    source, target = NOTEBOOK.with_name("14_explore.ipynb"), tmp_path / "executed.ipynb"
    _execute(source, target, {"IMAGES": 20})
    outputs = nbformat.read(target, 4).cells[-1].outputs
    assert any("widget" in kind for o in outputs for kind in o.get("data", ()))
