"""What reading records costs, told by counts: each record is read once, each run is made once."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from test_report import ACCURACIES, made_up

from bench import reading
from paperlib.cli import main
from paperlib.reporting import documents, results
from paperlib.study import plan
from paperlib.study.store import LONG, Store, _rows

ROOT = Path(__file__).parent.parent


def test_status_and_figures_read_each_record_once(tmp_path, monkeypatch):
    store = Store("quick", "results", tmp_path)
    made_up(store, ACCURACIES)
    reads, plain = Counter(), Path.read_bytes

    def read_bytes(path):
        reads[path.name] += path.suffix == ".json"
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.chdir(tmp_path)
    main(["status", "--record"])
    results.rebuild()
    records = {path.name for path in store.runs.glob("*.json")}
    assert {name: reads[name] for name in records} == dict.fromkeys(records, 1)


def test_a_set_up_makes_a_run_once():
    gains = [plan.kd_gains("quick")[0].students(None) for _ in range(2)]
    one, other = ([run for arms in g.values() for of in arms.values() for run in of] for g in gains)
    assert one and all(a is b for a, b in zip(one, other, strict=True))


def test_made_up_records_are_records(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "groups", lambda profile: ("ranking",))
    store = Store("quick", "results", tmp_path)
    assert reading.fill(store, Store("quick", "results", ROOT)) == 18
    assert store.faults() == [] and all(map(store.whole, plan.runs_of("quick", "ranking")))


def test_profiles_with_the_same_set_up_have_lines_of_their_own(tmp_path):
    for profile in ("lite", "paper"):
        tables = Store(profile, "results", tmp_path).tables
        tables.mkdir(parents=True)
        pd.DataFrame({"setup": ["a network", profile]}).to_csv(tables / "seeds.csv", index=False)
    found = set(documents._csv(tmp_path, "seeds")["setup"])
    assert found == {"a network, lite", "a network, paper", "lite", "paper"}


def test_a_long_curve_is_that_of_its_record_or_an_error(tmp_path):
    store, run = Store("quick", "results", tmp_path), plan.runs_of("quick", "ranking")[0]
    rows = [{"epoch": epoch, "loss": 1 / (1 + epoch)} for epoch in range(3 * LONG)]
    store.save(run, "done", result={"accuracy": 90.0, "curve": rows})
    curve = store.load(run)["result"]["curve"]
    assert list(curve) == rows and len(curve) == len(rows)
    assert curve[-1] == rows[-1] and curve[3:5] == rows[3:5]
    (path,) = store.runs.glob("*.json")
    path.write_bytes(path.read_bytes().replace(b"90.0", b"91.0"))
    _rows.cache_clear()
    with pytest.raises(ValueError, match=path.stem):
        list(curve)
