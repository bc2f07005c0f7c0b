"""What MkDocs needs beside the pages: files of the repository that they link to, as `../results/x`.

They are copied into the site below `repository/`, Markdown as plain text.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"(\]\()\.\./([^)#\s]+)")


def _place(path: str) -> str:
    return f"repository/{path}" + (".txt" if path.endswith(".md") else "")


def on_files(files, config):
    linked = {
        match[2]
        for page in sorted(Path(config.docs_dir).glob("*.md"))
        for match in OUTSIDE.finditer(page.read_text())
    }
    for path in sorted(linked):
        if (ROOT / path).is_file():  # what is not there stays a broken link, which --strict refuses
            files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, **_):
    return OUTSIDE.sub(lambda match: match[1] + _place(match[2]), markdown)
