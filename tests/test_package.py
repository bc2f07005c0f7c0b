"""What a stranger installs: wheel, public face, and the small environment of the figures."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import paperlib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(code, **options):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_face_is_lazy():
    """`import paperlib` and the tables and figures take no torch; asking for a name does."""
    code = "import sys, paperlib; print('torch' in sys.modules); {}; print('torch' in sys.modules)"
    assert python(code.format("import paperlib.reporting.results")).split() == ["False", "False"]
    assert python(code.format("paperlib.rank")).split() == ["False", "True"]


def test_the_public_face_holds_what_its_stub_says():
    stub = (ROOT / "paperlib/__init__.pyi").read_text()
    names = re.findall(r"import (\w+) as \1$", stub, re.M)
    assert 20 <= len(names) <= 26 and set(names) == set(paperlib.__all__) <= set(dir(paperlib))
    for name in names:
        assert getattr(paperlib, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        paperlib.nothing  # noqa: B018


def test_the_wheel_brings_its_digits_and_its_page(tmp_path):
    """Built from a copy and unpacked apart from this checkout: a forgotten data file fails."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(ROOT / "paperlib", source / "paperlib")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    wheel = source / python(build, cwd=source).splitlines()[-1]
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\nimport paperlib\n"
        "from paperlib.reporting import page\nfrom paperlib.study.store import Store\n"
        "print(paperlib.__file__, len(paperlib.load('digits').train_images))\n"
        "assert '</html>' in page.render([Store('quick')], [])"
    )
    where, images = python(code, cwd=tmp_path).split()
    assert where.startswith(str(target)) and images == "1297"


def test_the_figures_need_a_part_of_what_the_rest_needs():
    dependencies = set(PROJECT["project"]["dependencies"])
    figures = set(PROJECT["dependency-groups"]["figures"]) - {"setuptools>=77"}
    assert figures <= dependencies and not any("torch" in name for name in figures)
    lock = (ROOT / "requirements-figures.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", lock.strip())
    assert all("--hash=sha256:" in block for block in blocks) and "://" not in lock
    versions = dict(re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", lock, re.M))
    whole = dict(
        re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    )
    assert "torch" not in versions
    assert {name: whole[name] for name in versions} == versions, "the two locks drift apart"
