"""Notebook 04 with pictures of one's own: everything is made."""

import importlib
import sys
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


def test_the_explorers_sliders_reach_their_ends(monkeypatch):
    """Its cells as a front end runs them; where nobody looks there are figures, which nbval
    checks.
    """
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setenv("JPY_SESSION_NAME", "explore")
    monkeypatch.setitem(sys.modules, "ipykernel", importlib.import_module("ipykernel"))
    caught = {}
    monkeypatch.setattr("ipywidgets.interact", lambda f, **controls: caught.update(f=f, **controls))
    names = {}
    for cell in nbformat.read("14_explore.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("IMAGES = 240", "IMAGES = 60"), names)
    explore = caught.pop("f")
    assert set(caught) == {"teacher", "image", "operation", "strength", "temperature"}
    for name, control in caught.items():
        values = control[::6] if isinstance(control, list) else (control.min, control.max)
        for value in values:
            assert len(explore(**{name: value}).axes) == 3
