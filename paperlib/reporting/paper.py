"""The paper's own accuracies, from results/paper.csv. No torch here."""

from pathlib import Path

import pandas as pd

PAPER_KEY = ["dataset", "model", "bits", "quantizer", "loss", "augmentation"]
PAPER_COLUMNS = [*PAPER_KEY, "accuracy", "table", "page", "source"]
# In place of an augmentation: the pick of the paper's score, which the paper's table does not name.
PICKED = "picked"
PAPER_FACTS = ("paper_accuracy", "paper_source")
NO_VALUE = (float("nan"), float("nan"))
PaperValues = dict[tuple, tuple[float, str]]  # `PAPER_KEY` -> accuracy and source


def paper_table(root: Path) -> pd.DataFrame:
    """results/paper.csv: accuracies of the paper and of SQAKD (percent), with table, page and
    source. It is empty without the file.

    Raises ValueError, naming the file, for other columns, a value that is no percentage or has no
    source, or a value that stands there twice.
    """
    path = root / "results/paper.csv"
    if not path.exists():
        return pd.DataFrame(columns=PAPER_COLUMNS)
    table = pd.read_csv(path, comment="#", skipinitialspace=True)
    if list(table.columns) != PAPER_COLUMNS:
        raise ValueError(
            f"{path} needs the columns {', '.join(PAPER_COLUMNS)}, it has "
            f"{', '.join(table.columns)}"
        )
    wrong = table[~pd.to_numeric(table["accuracy"], errors="coerce").between(0, 100)]
    if len(wrong):
        raise ValueError(f"{path}: accuracies are percentages, got {wrong['accuracy'].iloc[0]}")
    for problem, rows in (
        ("two values", table[table.duplicated(PAPER_KEY)]),
        ("no source", table[table["source"].isna()]),
    ):
        if len(rows):
            where = ", ".join(map(str, rows[PAPER_KEY].iloc[0]))
            raise ValueError(f"{path} has {problem} for {where}")
    return table


def paper_values(root: Path) -> PaperValues:
    """`paper_table` as (dataset, model, bits, quantizer, loss, augmentation) -> (accuracy,
    source).
    """
    table = paper_table(root).astype({"accuracy": float})
    return {
        tuple(key): (accuracy, source)
        for *key, accuracy, _, _, source in table.itertuples(index=False)
    }
