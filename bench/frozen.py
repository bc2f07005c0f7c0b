"""Scores by a compiled teacher beside those by the same teacher as it is, into
results/bench/frozen.csv and .md.

    python -m bench.frozen [--images 2000] [--profiles cpu quick]

Every full-precision teacher whose weights are committed, all sixteen augmentations: compiled in
float32, eager and compiled in bfloat16, each against eager float32. About 6 minutes on 2 cores. The
rows of other profiles stay.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from paperlib import scoring
from paperlib.basics.files import write_atomically
from paperlib.data import Dataset, subset
from paperlib.models.frozen import Frozen
from paperlib.models.precision import autocast
from paperlib.reporting.style import markdown
from paperlib.runs.kinds import load_data, load_network
from paperlib.study import extensions, plan
from paperlib.study.config import TeacherRun
from paperlib.study.store import Store

BATCH = 100  # of `rank`
WAYS = (("float32", True), ("bfloat16", False), ("bfloat16", True))
NOTE = """# Scores by a compiled teacher

`python -m bench.frozen` with torch {torch}, {threads} threads, on {capability}. Every teacher whose
weights are committed scores all augmentations on {images} images, or all if it has fewer: compiled
in float32, and in bfloat16 eager and compiled, each against eager float32 on the same views. **off
by**: the largest difference of a score, in nats. **of the interval**: the largest share that a
difference has of the half of that score's own 95 % interval towards it; below 1, the score stays
within its interval. **places**: how many of the augmentations have another place in the ranking.
**compiling**: seconds, one compiler after the other; the first includes the start of the compiler.

"""


def teachers(profile: str) -> Iterator[tuple[TeacherRun, Store]]:
    """Those of a profile's plan whose weights are committed."""
    store = Store(profile, "results")
    runs = [run for name in plan.TABLES for run in plan.runs_of(profile, name, store)]
    found = {each.key: each for run in runs for each in (run, *run.needs)}
    for run in found.values():
        if type(run) is TeacherRun and store.kept_weights(run).exists():
            yield run, store


def compiled(network: nn.Module, data: Dataset, precision: str) -> tuple[nn.Module, float]:
    """The network compiled for scoring, and the seconds that took."""
    views = data.train_images[:BATCH]
    started = time.perf_counter()
    with torch.no_grad(), autocast("cpu", precision):
        return Frozen(network, data.network_input(data.test_views(views))), (
            time.perf_counter() - started
        )


def differences(exact: pd.DataFrame, other: pd.DataFrame) -> tuple[float, float, int]:
    """Largest difference of a score, the same in halves of the exact score's interval, and how many
    augmentations have another place.
    """
    both = exact.merge(other, on="augmentation", suffixes=("", "_other"))
    change = both["score_other"] - both["score"]
    half = (both["score_high"] - both["score"]).where(change > 0, both["score"] - both["score_low"])
    moved = int((both["rank"] != both["rank_other"]).sum())
    return float(change.abs().max()), float((change.abs() / half).max()), moved


def main(folder: Path = Path("results/bench")) -> None:
    """Print a line for each teacher and way, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--profiles", nargs="+", default=["cpu", "quick"])
    args = parser.parse_args()
    images, rows = args.images, []
    extensions.load()
    for profile in args.profiles:
        for run, store in teachers(profile):
            data, network = load_data(run.data, "cpu"), load_network(run, store, "cpu")
            data = subset(data, images, 100) if len(data.train_images) > images else data
            exact = scoring.rank(network, data)
            for precision, compiles in WAYS:
                seconds, seen = float("nan"), network
                if compiles:
                    seen, seconds = compiled(network, data, precision)
                off = differences(exact, scoring.rank(seen, data, precision=precision))
                name = f"{run.model} on {run.data.name}, {run.key[:8]}"
                way = f"{precision}, {'compiled' if compiles else 'eager'}"
                rows.append((profile, name, len(data.train_images), way, *off, seconds))
                print(*rows[-1], flush=True)
    columns = "profile", "teacher", "images", "way", "off by", "of the interval", "places"
    table = pd.DataFrame(rows, columns=[*columns, "compiling"])
    if (path := folder / "frozen.csv").exists():
        before = pd.read_csv(path)
        table = pd.concat([before[~before["profile"].isin(args.profiles)], table])
    note = NOTE.format(
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
        images=images,
    )
    write_atomically(path, table.to_csv(index=False))
    write_atomically(folder / "frozen.md", note + markdown(table, 4))


if __name__ == "__main__":
    main()
