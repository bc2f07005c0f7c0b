"""The environment cannot drift, the notebooks carry their outputs, the README's code runs."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from paperlib.study import plan, profiles
from paperlib.study.profiles import ALL_16

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LOCKED = dict(
    re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
)


def test_environment_yml_and_make_install_the_one_lock():
    environment = (ROOT / "environment.yml").read_text()
    assert re.findall(r"- --requirement (\S+)", environment) == ["requirements.lock"]
    own = re.search(r"- pip:\n((?: {6}- .*\n?)+)", environment).group(1)
    assert own.split() == ["-", "--require-hashes", "-", "--requirement", "requirements.lock"], (
        "no package beside the lock"
    )
    assert "--require-hashes -r requirements.lock" in (ROOT / "Makefile").read_text()
    assert "make test" in (ROOT / ".ci/run").read_text().splitlines()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_lock_holds_every_dependency_with_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    for requirement in wanted:
        assert re.match(r"[\w-]+", requirement).group() in LOCKED
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text, "the lock names a host"


def test_what_is_installed_is_what_is_locked():
    """In the environment that `make env` builds; elsewhere the code runs on other versions, which
    this does not judge.
    """
    if not sys.executable.startswith(str(ROOT / ".venv")):
        pytest.skip("not the environment of make env")
    for name in ("torch", "torchvision", "pandas", "matplotlib", "papermill", "nbval"):
        assert version(name).split("+")[0] == LOCKED[name]


def test_every_table_has_its_notebook():
    assert [path.name for path in NOTEBOOKS] == sorted(
        notebook for _, notebook in plan.TABLES.values() if notebook
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_executed_and_clean(path):
    """nbval passes a notebook without outputs whatever it computes; so that is checked here."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    table = next(table for table, (_, name) in plan.TABLES.items() if name == path.name)
    shows_runs = bool(
        plan.runs_of("quick", table)
    )  # one that has none defines things, which prints nothing
    assert sum(bool(cell.outputs) for cell in code) >= (
        len(code) - 1 if shows_runs else 4
    )  # all but the parameters
    for output in (output for cell in code for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr"
    assert (
        sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 1
    )
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.get("tags", []))
    names = re.findall(r"^(\w+) = ", parameters.source, re.M)
    from paperlib.notebook import Parameters

    known = Parameters.__dataclass_fields__ | plan.Selection.__dataclass_fields__
    assert sorted(name.lower() for name in names) == sorted(known) or not shows_runs
    assert all(len(cell.source.splitlines()) <= 15 for cell in code)
    assert not re.search(
        r"papermill|execution|\d{4}-\d\d-\d\dT",
        json.dumps([cell.metadata for cell in notebook.cells]),
    )


def test_the_readmes_example_runs(tmp_path):
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"<!-- tested -->\n```python\n(.*?)```", readme, re.S)
    assert len(examples) == 2
    setup = (
        "import torch\nimages = torch.randint(0, 256, (60, 3, 24, 24), dtype=torch.uint8)\n"
        "labels = torch.arange(60) % 3\n"
        "my_network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 3))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", setup + "".join(examples)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "trivialaugment+cutmix" in done.stdout and "behind" in done.stdout


def test_the_readmes_table_is_the_records():
    """Every number of the headline table, to its last printed digit, as the committed agreement
    tables have it.
    """
    tables = pd.concat(
        [pd.read_csv(ROOT / "results" / p / "tables/agreement.csv") for p in ("cpu", "quick")]
    )
    tables = tables[tables["pool"] == ALL_16]
    setups = list(
        tables["setup"].unique()
    )  # the columns of the table, two numbers and a p-value each
    lines = (ROOT / "README.md").read_text().split("| ranker |")[1].split("\n\n")[0].splitlines()
    shown = [[cell.strip(" *") for cell in line.strip("| ").split(" | ")] for line in lines[2:]]
    assert [name for name, *_ in shown] == [
        "score D - CMI (ours)",
        "divergence D alone",
        "- CMI alone",
        "teacher cross-entropy",
        "T. stddev (minimal variance)",
        "CutMix or not (no teacher)",
    ]
    for name, *cells in shown:
        rows = tables[tables["ranker"] == name].set_index("setup").loc[setups]
        expected = rows[["spearman", "spearman_p", "regret"]].to_numpy().ravel()
        numbers = [found for cell in cells for found in re.findall(r"(< )?([-+]?\d+\.(\d+))", cell)]
        for (below, n, digits), value in zip(numbers, expected, strict=True):
            assert (
                value < float(n) if below else abs(float(n) - value) <= 0.501 * 10 ** -len(digits)
            ), (name, n, value)


def test_the_readmes_findings_beyond_the_table_are_the_records():
    """The score's order within CutMix and without, and by one seed, as the section says it."""
    section = (ROOT / "README.md").read_text().split("\n## What came out\n")[1].split("\n## ")[0]
    prose = section.split("At this scale")[1]
    tables = pd.concat(
        [pd.read_csv(ROOT / "results" / p / "tables/agreement.csv") for p in ("cpu", "quick")]
    )
    score = tables[tables["ranker"] == "score D - CMI (ours)"]
    cifar10, cifar100, vgg, resnet = score[score["pool"] == ALL_16]["within"]
    assert (
        f"only ({resnet:.2f}, p = 0.003, one seed); the others have {cifar10:+.2f}, "
        f"{cifar100:+.2f} and {vgg:+.2f}" in prose
    )
    seven = [f"{value:+.2f}" for value in score[score["pool"] != ALL_16]["spearman"]]
    assert f"likely shows: {seven[0]}, {seven[1]}, {seven[2]} and {seven[3]}" in " ".join(
        prose.split()
    )
    seeds = pd.read_csv(ROOT / "results/cpu/tables/seeds.csv")
    low, high, between = seeds[seeds["pool"] == ALL_16].iloc[0][
        ["score_lowest", "score_highest", "between"]
    ]
    assert (
        f"between {low:.2f} (seed 0, p = 0.005) and {high:+.2f}" in prose
        and f"alike with {between:.2f} on CIFAR-10" in prose
    )


def test_the_readmes_speeds_are_the_benchmarks():
    """Rates, ratios to the baseline and to the limit, as the committed measurement rounds to
    them.
    """
    from bench.measure import ratios, spread
    from bench.render import rows_of
    from bench.store import read

    suites = read(ROOT / "results/bench/amd-epyc-2.json")["suites"]
    scored = "an augmentation scored by us, "
    names = {
        "scoring, one pass": (
            "scoring",
            ["our pass, mean of all, float32", "our pass, mean of all, bfloat16"],
        ),
        "an augmentation scored": ("scoring", [scored + "float32", scored + "bfloat16"]),
        "2-bit training": ("training", ["ours, float32, eager"]),
        "+ quantizers": ("training", ["ours, + fused quantizers"]),
        "+ bfloat16": ("training", ["ours, + bfloat16"]),
        "two such students": ("training", ["ours, 2 processes of one thread"]),
        "two students packed": ("many", ["2 students, packed"]),
    }
    section = (ROOT / "README.md").read_text().split("\n## Speed\n")[1].split("\n## ")[0]
    shown = re.findall(r"^\| ([^|]+?) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", section, re.M)
    assert len(shown) == len(names)
    for (label, *cells), (start, (suite, rows)) in zip(shown, names.items(), strict=True):
        assert label.startswith(start)
        every = rows_of(suites[suite])
        ours = [every[name] for name in rows]
        expected = (
            [spread(row.rounds)[0] for row in ours],
            [ratios(row.rounds, every[row.baseline].rounds)[0] for row in ours if row.baseline],
            [ratios(every[row.limit].rounds, row.rounds)[0] for row in ours if row.limit],
        )
        for cell, values in zip(cells, expected, strict=True):
            numbers = [float(n.replace(",", "")) for n in re.findall(r"[\d.,]+", cell)]
            assert numbers == pytest.approx(values, rel=0.04), (label, cell)


def test_every_method_is_listed_with_a_proof_that_exists():
    """`python -m paperlib methods` holds everything registered, and names files and tests that
    exist; the study, which imports no torch, knows no others.
    """
    from paperlib.augment import POLICIES
    from paperlib.catalogue import methods
    from paperlib.data import DATASETS
    from paperlib.losses import OBJECTIVES, objective
    from paperlib.models import MODELS
    from paperlib.quantizers import METHODS

    listed = methods()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for registry in (METHODS, OBJECTIVES, MODELS, POLICIES, DATASETS):
        for name, entry in registry.items():
            assert f"| `{name}` | {entry.paper} |" in listed and entry.paper
            assert f"def {entry.proof}(" in tests or name == "none"
    for path in re.findall(r"`([a-z_/]+\.py)`", listed):
        assert (ROOT / "paperlib" / path).exists(), path
    assert set(plan.QUANTIZERS) <= set(METHODS) and set(plan.LOSSES) <= set(OBJECTIVES)
    every = {name: objective(name) for name in OBJECTIVES}
    assert set(profiles.SHORTENED) == {
        name for name, o in every.items() if o.init_epochs or o.warmup
    }


def test_readme_names_only_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    named = set(re.findall(r"`make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named and named <= targets
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"reproduce", "test", "figures", "lab"} <= set(re.findall(r"^  ([a-z]+) ", shown, re.M))
