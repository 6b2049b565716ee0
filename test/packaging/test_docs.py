# SPDX-License-Identifier: Apache-2.0
"""The pages: links lead somewhere, commands are there and take the options that are shown, snippets of Python run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"])
PAGES += [ROOT / "tools" / "README.md", ROOT / "gaussianocc_core" / "weights" / "README.md"]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target, anchor in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        where = (page.parent / target).resolve() if target else page
        if not where.exists() or (anchor and where.suffix == ".md" and anchor not in anchors(where)):
            broken.append(f"{target}#{anchor}")
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_of_the_site_link_to_no_page_outside_of_it(page):
    """`make docs` ends with an error at such a link; folders and other files may be named."""
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [each for each in targets if each.startswith("../") and each.endswith(".md")] == []


def test_the_site_has_every_page():
    class Loader(yaml.SafeLoader):
        pass

    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    listed = re.findall(r"\w+\.md", str(nav))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def commands():
    """(page, program as sys.argv would have it, its options) of every line of a shell block that runs one of ours."""
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = re.sub(r"#.*", "", line).split()
                while words and re.match(r"^\w+=", words[0]):  # environment variables
                    words = words[1:]
                if not words or not words[0].endswith("python"):
                    continue
                program, rest = (words[1:3], words[3:]) if words[1] == "-m" else (words[1:2], words[2:])
                options = [re.split(r"[=]", word)[0] for word in rest if word.startswith("--")]
                yield page.relative_to(ROOT), tuple(program), options


def programs():
    found = {}
    for page, program, options in commands():
        if program[-1] in ("venv", "pip", "build", "torch.distributed.run"):
            continue
        found.setdefault(program, {}).update(dict.fromkeys(options, page))
    return found


@pytest.mark.medium
@pytest.mark.parametrize("program", sorted(programs()), ids=" ".join)
def test_commands_of_the_pages_are_there_with_their_options(program):
    options = programs()[program]
    shown = subprocess.run(
        [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert shown.returncode == 0, shown.stderr
    known = set(re.findall(r"--[\w-]+", shown.stdout)) | {"--ros-args", "--params-file"}
    missing = {option: str(page) for option, page in options.items() if option not in known}
    assert not missing


@pytest.mark.medium
def test_the_snippet_of_python_runs(tmp_path):
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    snippet = next(each for each in snippets if "NuScenesSource" in each)
    imports = [line for each in snippets for line in each.splitlines() if line.startswith("from gaussianocc")]
    snippet = "\n".join([*imports, snippet])
    from gaussianocc_core.synthetic.writer import write_dataset

    write_dataset(tmp_path / "data" / "street", scenes=1, frames=2, seed=5)
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+ occupied voxels", done.stdout)) >= 2
