"""What reading records costs, told by counts: each record is read once, each run is made once."""

import json
import pickle
import random
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from test_report import ACCURACIES, made_up

from bench import reading
from paperlib.cli import main
from paperlib.reporting import documents, results
from paperlib.study import extensions, plan
from paperlib.study.store import LONG, Snapshot, Store, _rows
from related import SYSTEMS

ROOT = Path(__file__).parent.parent
extensions.load()


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


def test_other_processes_write_the_same_files(tmp_path):
    made_up(Store("quick", "results", tmp_path), ACCURACIES)
    alone = {path: path.read_bytes() for path in results.rebuild(tmp_path)}
    assert {path: path.read_bytes() for path in results.rebuild(tmp_path, jobs=2)} == alone


def test_what_has_no_rows_any_more_is_removed(tmp_path):
    store = Store("quick", "results", tmp_path)
    made_up(store, ACCURACIES)
    written = {*results.write(store)}
    for folder, kind in ((store.tables, "csv"), (store.figures, "png")):
        (folder / f"of_before.{kind}").touch()
    assert {*results.write(store)} == written
    assert {*store.tables.iterdir(), *store.figures.iterdir()} == written


def test_a_snapshot_is_the_store_at_its_time(tmp_path):
    store, seen = (of("quick", "results", tmp_path) for of in (Store, Snapshot))
    made_up(store, ACCURACIES)
    runs = plan.runs_of("quick")
    lost = next(run for run in runs if store.done(run) and run.needs)
    assert seen.all() == store.all() and list(map(seen.load, runs)) == list(map(store.load, runs))
    assert list(map(seen.finished, runs)) == list(map(store.finished, runs))
    store.path(lost).unlink()
    assert seen.done(lost) and not store.done(lost) and not Snapshot(*_fields(seen)).done(lost)
    assert pickle.loads(pickle.dumps(seen)) == store


def _fields(store):
    return store.profile, store.tree, store.root


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_part_of_a_systems_records_is_shown_without_an_error(name, monkeypatch):
    """Whatever is not done yet: all records with some value of some field, or all without it."""
    store, system, load = Snapshot("quick", "results", ROOT), SYSTEMS[name], Snapshot.load
    records = [r for run in plan.runs_of("quick", system.table) if (r := store.load(run))]
    values = {r["key"]: {*_values(r["config"])} | {("kind", r["kind"])} for r in records}
    several = sorted(set.union(*values.values()) - set.intersection(*values.values()))
    module, (needs, draw) = f"related.{name}.report", results.FIGURES[system.table]
    tables = {n: table for n, table in results.TABLES.items() if table.__module__ == module}
    rng, gone = random.Random(0), set()
    monkeypatch.setattr(
        Snapshot, "load", lambda self, run: None if run.key in gone else load(self, run)
    )
    shown = 0
    for trial, value in enumerate(rng.sample(several, len(several))):
        for there in (True, False):
            gone = {key for key, of in values.items() if (value in of) == there}
            part = Snapshot("quick", "results", ROOT)
            made = {each: table(part, {}) for each, table in tables.items()}
            if len(made[system.table]):
                shown += 1
                assert isinstance(system.headline(made[system.table]), str)
            if len(made[needs]) and trial < 8:  # drawing takes long
                draw(part, made)
    assert shown


def _values(config, path=""):
    """(path, JSON) of each value in a configuration."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _values(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", json.dumps(value)


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
