"""One page that holds everything: verdicts, figures, tables, hardware and cost. A single file, no torch, no network."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..study import plan
from ..study.store import Store
from . import ablations, claims, report
from .gains import kd_table, qat_table, wide

COLOURS = {"supported": "#2a7f3f", "partly": "#9a6b00", "not supported": "#b3261e", "not tested": "#6b7280"}
STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --back: #ffffff; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --back: #0d1117; --shade: #161b22; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back); max-width: 70rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
nav a { margin-right: 1rem; } a { color: #0969da; } p, li { max-width: 46rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { background: var(--shade); } td:first-child, th:first-child, td.text, th.text { text-align: left; } td.text { white-space: normal; }
.verdict { color: white; border-radius: 1rem; padding: .1rem .6rem; font-size: .8rem; white-space: nowrap; }
img { max-width: 100%; background: white; border: 1px solid var(--line); border-radius: 6px; } figure { margin: 1.5rem 0; }
figcaption, summary { color: var(--soft); font-size: .9rem; }
"""


def hardware_table(stores: Sequence[Store]) -> pd.DataFrame:
    """One row per profile, kind of run and device: how many records there are, and their seconds and processor seconds."""
    rows = [
        {
            "profile": store.profile, "kind": record["kind"], "device": record["environment"]["device"],
            "torch": record["environment"]["torch"], "seconds": record["seconds"], "cpu_seconds": record["cpu_seconds"],
        }
        for store in stores for record in store.all() if record["status"] == "done"
    ]  # fmt: skip
    return _summed(rows, ["profile", "kind", "device", "torch"])


def time_table(stores: Sequence[Store]) -> pd.DataFrame:
    """One row per profile, table and device: its records, their seconds and processor seconds. Tables may share records."""
    rows = [
        {
            "profile": store.profile, "table": name, "device": record["environment"]["device"],
            "seconds": record["seconds"], "cpu_seconds": record["cpu_seconds"],
        }
        for store in stores if store.runs.exists() for name in plan.TABLES
        for record in map(store.load, plan.runs_of(store.profile, name, store)) if record and record["status"] == "done"
    ]  # fmt: skip
    return _summed(rows, ["profile", "table", "device"])


def _summed(rows: list[dict[str, Any]], keys: list[str]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame()
    return pd.DataFrame(rows).groupby(keys, sort=False).agg(
        records=("seconds", "size"), seconds=("seconds", "sum"), cpu_seconds=("cpu_seconds", "sum")
    ).reset_index()  # fmt: skip


def _table(table: pd.DataFrame) -> str:
    def text(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"

    return f'<div class="wide">{table.map(text).to_html(index=False, border=0, justify="right")}</div>'


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _verdicts(found: Sequence[claims.Claim]) -> str:
    rows = "".join(
        f'<tr><td>{c.name}</td><td class="text">{html.escape(c.says)}</td><td class="text">{html.escape(c.rule)}</td><td><span class="verdict" style="background: '
        f'{COLOURS[c.verdict]}">{c.verdict}</span></td><td>{c.setups}</td><td>{c.records}</td></tr>'
        for c in found
    )
    details = "".join(
        f"<details><summary>{c.name}: the numbers</summary><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in c.evidence)}</ul></details>"
        for c in found
    )
    head = '<tr><th>claim</th><th class="text">what the paper says</th><th class="text">our rule</th><th>verdict</th><th>set-ups</th><th>records</th></tr>'
    return f'<div class="wide"><table>{head}{rows}</table></div>{details}'


CAPTIONS = {
    "metric_vs_accuracy": "One point per augmentation: the teacher's score (bars: 95 % bootstrap interval) against the accuracy of the students trained with it.",
    "metric_vs_accuracy_seven": "The same for the seven policies without CutMix that the paper's figure most likely shows.",
    "qat": "Students of each QAT method, by loss and by what chose the augmentation; bars are one standard deviation over the seeds.",
    "kd": "EWGS students of each loss, by what chose the augmentation; bars are one standard deviation over the seeds.",
    "definitions": "Spearman's correlation with accuracy of what the paper's score might be, in four pools of candidates: blue ranks as claimed.",
    "cost": "What scoring costs beside what it replaces.",
    "score_variants": "The score at other temperatures, on fewer images, in two passes, with unmixed labels and by another teacher: how it ranks the students, and how far it keeps its own order.",
    "search": "Random two-operation policies, scored in a race, beside the eight policies without CutMix; and students trained under what was found.",
    "methods": "Every quantizer with plain KD and every loss with EWGS on one short budget; bars are one standard deviation over the seeds.",
}  # fmt: skip
AGREEMENT = [
    "setup", "pool", "ranker", "spearman", "spearman_p", "within", "within_p", "kendall", "kendall_p", "pick", "pick_accuracy", "regret",
    "seeds",
]  # fmt: skip
COST = ["setup", "candidates", "scoring", "student", "sweep", "clock", "share_of_student", "device"]
METHODS = ["kind", "method", "accuracy_mean", "accuracy_sd", "n", "difference", "difference_se", "step_time"]


def _intervals(ranking: pd.DataFrame) -> pd.DataFrame:
    """A ranking table to read: scores with their intervals, accuracies with their standard deviations."""
    scores = [f"{row.score:.3f} [{row.score_low:.3f}, {row.score_high:.3f}]" for row in ranking.itertuples()]
    accuracies = [
        f"{row.accuracy_mean:.2f}" + (f" ± {row.accuracy_sd:.2f}" if row.n > 1 else "") for row in ranking.itertuples()
    ]
    shown = ["dataset", "model", "augmentation", "rank", "score", "cmi", "divergence", "teacher_stddev", "accuracy", "n"]
    return ranking.assign(score=scores, accuracy=accuracies)[shown]


def _sections(store: Store) -> list[tuple[str, list[str], list[pd.DataFrame]]]:
    """(heading, figures, tables) of one profile, in the order of the questions."""
    ranking = report.ranking_table(store)
    agreement, methods, costs = report.agreement_table(ranking), report.methods_table(store), claims.cost_table(store)
    return [
        (
            "Does the score rank augmentations?",
            ["metric_vs_accuracy", "metric_vs_accuracy_seven"],
            [_intervals(ranking), agreement[AGREEMENT] if len(agreement) else agreement, report.seeds_table(store)],
        ),
        ("QAT methods with and without the pick", ["qat"], [wide(qat_table(store))]),
        ("KD methods with and without the pick", ["kd"], [wide(kd_table(store))]),
        ("Which definition is the paper's?", ["definitions"], []),
        ("Quantizers and losses", ["methods"], [methods[METHODS] if len(methods) else methods]),
        ("What the score owes to how it is computed", ["score_variants"], [ablations.score_variants_table(store)]),
        ("Straight-through or scaled gradients, papers' or released forms", [], [ablations.forms_table(store)]),
        ("A search among random policies", ["search"], [ablations.search_table(store)]),
        ("What selection costs", ["cost"], [costs[COST] if len(costs) else costs]),
    ]


def _profile(store: Store) -> str:
    """The part of the page about one profile; "" without a score."""
    if report.ranking_table(store).empty:
        return ""
    parts = [f'<h2 id="{store.profile}">Profile {store.profile}</h2>']
    for heading, figures, tables in _sections(store):
        pictures = [(store.figures / f"{name}.png", CAPTIONS[name]) for name in figures]
        shown = [_picture(path, caption) for path, caption in pictures if path.exists()]
        shown += [_table(table) for table in tables if len(table)]
        parts += [f"<h3>{html.escape(heading)}</h3>", *shown] if shown else []
    return "\n".join(parts)


def render(stores: Sequence[Store], found: Sequence[claims.Claim]) -> str:
    """The page, from records and from the figures that were written beside them; the largest profile comes first."""
    sections = {store.profile: text for store in reversed(stores) if (text := _profile(store))}
    links = "".join(f'<a href="#{profile}">{profile}</a>' for profile in sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data-augmented quantization-aware knowledge distillation, reproduced</title><style>{STYLE}</style></head><body>
<h1>Data-augmented quantization-aware knowledge distillation, reproduced</h1>
<p class="soft">A reproduction of <a href="https://arxiv.org/abs/2509.03850">arXiv 2509.03850</a>. Everything here is made from the committed
records by <code>make figures</code>; the paper's own numbers are not at hand.</p>
<nav><a href="#claims">claims</a>{links}<a href="#cost">hardware and cost</a></nav>
<h2 id="claims">The paper's claims</h2>
{_verdicts(found)}
{"".join(sections.values())}
<h2 id="cost">Hardware and cost</h2>
{_table(hardware_table(stores))}
<p>By table; a record that several tables share counts in each.</p>
{_table(time_table(stores))}
</body></html>
"""
