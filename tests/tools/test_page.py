"""The pages in a real browser, without a network: Debian's Chromium, driven by Playwright."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from paperlib.cli import main

ROOT = Path(__file__).parents[2]
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1200, 400)]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    assert path, "install Debian's package chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield started
        started.close()


@pytest.fixture(params=LOOKS, ids=lambda look: f"{look[0]}-{look[1]}")
def opened(request, browser):
    """A function that opens a file. Afterwards nothing was asked of a network, nothing failed."""
    scheme, width = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page, asked, wrong = context.new_page(), [], []
    page.on("request", lambda found: asked.append(found.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: said.type == "error" and wrong.append(said.text))

    def open_(path):
        page.goto(path.absolute().as_uri())
        return page

    yield open_
    assert not wrong
    assert all(url.startswith(("file:", "data:")) for url in asked) and len(asked) >= 1
    # wide tables scroll within themselves
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back[4:-1].split(","))) > 380) == (scheme == "light")
    context.close()


def test_the_report_lets_one_choose(opened):
    page = opened(ROOT / "results/report.html")
    setups, rankers = (page.locator(f"select[name={n}] option") for n in ("setup", "ranker"))
    assert setups.count() >= 3 and rankers.count() == 8
    seen = set()
    for k in range(setups.count()):
        page.select_option("select[name=setup]", index=k)
        for ranker in ("score", "teacher_stddev"):
            page.select_option("select[name=ranker]", ranker)
            points = page.locator("figure.chart circle")
            assert points.count() == 16
            points.nth(3).hover()
            seen.add(page.locator("#point").inner_text())
            box, chart = points.nth(3).bounding_box(), page.locator("figure.chart svg")
            around = chart.bounding_box()
            assert around["x"] <= box["x"] <= around["x"] + around["width"]
    assert len(seen) == 2 * setups.count()
    for link in page.locator("#point a").all():
        assert (ROOT / "results" / link.get_attribute("href")).exists()
    page.locator("figure.chart circle").first.focus()
    assert page.locator("#point b").inner_text()


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    """The page of a small folder."""
    here = tmp_path_factory.mktemp("own")
    for number, name in enumerate(("a rather long name of a class", "green", "red")):
        for k in range(12):
            (here / "set" / name).mkdir(parents=True, exist_ok=True)
            shade = [20 * k, 20 * k, 20 * k]
            shade[number] = 255
            Image.new("RGB", (48, 48), tuple(shade)).save(here / "set" / name / f"{k}.png")
    (here / "set/red/broken.png").write_bytes(b"")
    (here / "page_nets.py").write_text(
        "import torch\n\n\ndef make():\n    return lambda x: 4 * x.mean((2, 3))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "path", [*sys.path])
        some = "none,erasing,trivialaugment,autoaugment_imagenet+cutmix"
        arguments = ["--data", "set", "--mean", "0.5", "--std", "0.25", "--candidates", some]
        assert main(["rank", "--teacher", "page_nets:make", *arguments, "--out", "out"]) == 0
    return here / "out/index.html"


def test_a_ranking_sorts_and_grows(opened, ranking):
    page = opened(ranking)
    names = page.locator("#candidates tbody tr td:nth-child(2)")
    first = names.all_inner_texts()
    page.click("th:has-text('augmentation') button")
    assert names.all_inner_texts() == sorted(first)
    page.click("th:has-text('augmentation') button")
    assert names.all_inner_texts() == sorted(first, reverse=True)
    for _ in range(2):
        page.click("th:has-text('error') button")
    values = [
        float(cell.get_attribute("data-value"))
        for cell in page.locator("#candidates tbody tr td:nth-child(8)").all()
    ]
    assert values == sorted(values, reverse=True)
    page.click("th:has-text('rank') button")
    assert names.all_inner_texts() == first
    picture = page.locator("#candidates img").first
    assert picture.evaluate("image => image.naturalWidth") > 100
    before = picture.bounding_box()["height"]
    picture.click()
    assert picture.bounding_box()["height"] > 2 * before
    assert "broken.png" in page.locator("details[open]").inner_text()
    page.click("summary:has-text('Classes')")
    assert page.locator("text=a rather long name of a class").first.is_visible()
