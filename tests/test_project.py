"""The environment cannot drift, the notebooks carry their outputs, the documents are true."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

from paperlib import cli
from paperlib.reporting import documents
from paperlib.study import plan, profiles

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
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
        table.notebook for table in plan.TABLES.values() if table.notebook
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_executed_and_clean(path):
    """nbval passes a notebook without outputs whatever it computes; so that is checked here."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    table = next(name for name, table in plan.TABLES.items() if table.notebook == path.name)
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


def test_the_examples_run(tmp_path):
    """Those of the README and of docs/ that are marked as tested, each page in one process."""
    setup = (
        "import torch\nimages = torch.randint(0, 256, (60, 3, 24, 24), dtype=torch.uint8)\n"
        "labels = torch.arange(60) % 3\n"
        "my_network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), "
        "torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), "
        "torch.nn.Linear(4 * 20 * 20, 3))\n"
    )
    shown = {}
    for path in PAGES:
        examples = re.findall(r"<!-- tested -->\n```python\n(.*?)```", path.read_text(), re.S)
        assert path.read_text().count("<!-- tested -->") == len(examples)
        if examples:
            done = subprocess.run(
                [sys.executable, "-c", setup + "".join(examples)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
            )
            assert done.returncode == 0, (path, done.stderr)
            shown[path.name] = done.stdout
    assert "trivialaugment+cutmix" in shown["README.md"] and "behind" in shown["extending.md"]


def test_every_block_is_what_the_records_give():
    assert documents.documents(ROOT) == PAGES
    blocks, named = documents.blocks(ROOT), set()
    for path in PAGES:
        text = path.read_text()
        assert documents.rewritten(text, blocks, path) == text, f"{path}: make figures"
        named |= {found["name"] for found in documents.BLOCK.finditer(text)}
    assert named == set(blocks), "a block that no page shows"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("<!-- table: nothing -->\n<!-- end -->\n", "unknown table 'nothing'"),
        ("<!-- table: claims -->\n", "no '<!-- end -->'"),
        ("<!-- table: claims -->\n<!-- table: seeds -->\n<!-- end -->\n", "no '<!-- end -->'"),
    ],
)
def test_a_block_that_cannot_be_written_names_its_file(tmp_path, text, problem):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=f"docs/page.md.*{problem}"):
        documents.refresh(tmp_path)
    assert page.read_text() == text


def test_blocks_are_written_once_and_the_rest_stays(tmp_path):
    """Without records too; what stands outside of the markers is kept to the byte."""
    page = tmp_path / "README.md"
    every = "".join(f"a\n\n<!-- table: {n} -->\n<!-- end -->\nb" for n in documents.TABLES)
    page.write_text(every)
    assert documents.refresh(tmp_path) == [page]
    first = page.read_text()
    assert first.count(documents.NOTHING) == len(documents.TABLES)
    assert first.replace(f"\n{documents.NOTHING}\n", "") == every
    written = page.stat().st_mtime_ns
    assert documents.refresh(tmp_path) == [page]
    assert page.read_text() == first and page.stat().st_mtime_ns == written


def test_the_readme_is_one_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """Every relative link to a file that is there, every anchor to a heading of its page."""
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists() and there.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_every_notebook_and_every_page_is_in_its_index():
    readme = (ROOT / "README.md").read_text()
    index = re.findall(r"^\| \[\d\d\]\(notebooks/(\S+)\) \| `(\w+)` \|", readme, re.M)
    shown = [(t.notebook, name, t.group) for name, t in plan.TABLES.items() if t.notebook]
    assert index == [(notebook, name) for notebook, name, group in shown if group != plan.RELATED]
    related = (ROOT / "docs/related.md").read_text()
    for notebook, _, group in shown:
        assert group != plan.RELATED or f"](../notebooks/{notebook})" in related
    pages = {path.name for path in PAGES[1:]} - {"index.md"}
    listed = (ROOT / "docs/index.md").read_text()
    assert set(re.findall(r"\]\((\w[\w-]*\.md)\)", listed)) == pages
    assert set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)) == (
        pages | {"index.md"}
    )


def test_every_citation_of_the_paper_leads_to_a_section():
    notes = (ROOT / "docs/paper-notes.md").read_text()
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", notes, re.M))
    number = r"\d+(?:\.\d+)*"
    cited = {}
    for folder in ("paperlib", "tests", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lists = re.findall(
                rf"PAPER[\s#]+({number}(?:(?:,| and| or| to|, and)[\s#]+{number})*)",
                path.read_text(),
            )
            cited |= {section: path for text in lists for section in re.findall(number, text)}
    assert len(cited) > 10
    assert {s: path for s, path in cited.items() if s not in sections} == {}


def test_the_speeds_of_a_compiled_teacher_shown_are_the_benchmarks():
    from bench.measure import ratios, spread
    from bench.render import rows_of
    from bench.store import read

    suites = read(ROOT / "results/bench/intel-r-xeon-r-processor-2.json")["suites"]
    every = rows_of(suites["scoring"])

    def rate(row):
        return f"{float(f'{spread(row.rounds)[0]:.3g}'):,.0f}"

    def baseline(row):
        return f"{ratios(row.rounds, every[row.baseline].rounds)[0]:.3g}"

    def limit(row):
        return f"{ratios(every[row.limit].rounds, row.rounds)[0]:.2f}"

    def cell(name, shown, compiled):
        found = [every[f"{name}, {p}{', compiled' * compiled}"] for p in ("float32", "bfloat16")]
        return "{} ({})".format(*map(shown, found))

    pass_, together = "our pass, mean of all", "4 teachers score an augmentation, the same views"
    expected = [
        (cell(pass_, rate, False), cell(pass_, rate, True), cell(pass_, limit, True)),
        *(
            (cell(name, baseline, False), cell(name, baseline, True), "")
            for name in ("an augmentation scored by us", together)
        ),
    ]
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    section = page.split("\n## A compiled teacher\n")[1].split("\n## ")[0]
    shown = re.findall(r"^\| [^|]+ \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", section, re.M)
    shown = [row for row in shown if row[0][0].isdigit()]
    assert [tuple(map(str.strip, row)) for row in shown] == expected


def test_the_speeds_shown_are_the_benchmarks():
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
    page = (ROOT / "docs/performance.md").read_text()
    section = page.split("\n## Speed\n")[1].split("\n## ")[0]
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
    page = ROOT / "docs/methods.md"
    assert documents.rewritten(page.read_text(), documents.blocks(ROOT, listed), page) == (
        page.read_text()
    )
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


def test_the_list_of_methods_is_written_on_request(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/methods.md"
    page.write_text("<!-- table: methods -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["methods"]) == 0 and page.read_text().count("\n") == 2
    monkeypatch.chdir(tmp_path.parent)
    assert cli.main(["methods", "--write"]) == 1  # not the repository's folder
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli.main(["methods", "--write"]) == 0
    assert capsys.readouterr().out.endswith(
        page.read_text().split("-->\n\n")[1].split("\n\n<")[0] + "\n"
    )


def test_documents_name_only_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for path in PAGES:
        named = set(re.findall(r"`make ([a-z]+)", path.read_text()))
        assert named <= targets, path
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"reproduce", "test", "figures", "lab"} <= set(re.findall(r"^  ([a-z]+) ", shown, re.M))


def test_make_takes_an_interpreter_in_a_folder_with_spaces(tmp_path):
    """It calls the interpreter that it is given, as one word, and nothing else."""
    folder = tmp_path / "my own python"
    folder.mkdir()
    script = folder / "python"
    script.write_text('#!/bin/sh\necho "called: $*"\n')
    script.chmod(0o755)
    targets = "run status compare figures notebooks bench lab lint test storm docs".split()
    done = subprocess.run(
        ["make", f"PYTHON={script}", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith("called: ")]
    assert len(calls) == len(targets) + 4  # lint has four, test two
    assert "called: -m paperlib status --profile quick --table all --bits 0 --seeds 0" in calls
