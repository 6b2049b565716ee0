# SPDX-License-Identifier: Apache-2.0
"""Docstrings and comments cite docs/method.md by section; every citation leads somewhere, and so does what it names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = ROOT / "docs" / "method.md"
FOLDERS = ("benchmarks", "config", "docs", "gaussianocc_core", "gaussianocc_ros", "launch", "test", "tools")

SECTION = r"#[a-z](?:\.\d+)?(?![\w.]*\w)"  # "#e.7", also at the end of a sentence
# One citation names one section or several: "docs/method.md#f, #g.1", "docs/method.md#a to #e".
CITATION = re.compile(rf"docs/method\.md({SECTION}(?:(?:, | and | to ){SECTION})*)")
ANY_CITATION = re.compile(r"docs/method\.md#")
# What citations looked like before the page was written.
SPECIFICATION = re.compile(r"\b[Ss]pec(?:ification)? sections?\b|\b[Ss]pec [a-z](?:\.\d)?\b|\bthe spec\b")


def texts() -> dict[Path, str]:
    """All files that may cite, but this one."""
    paths = [*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")))]
    wanted = {p for p in paths if p.suffix in (".py", ".yaml", ".md", ".msg") and p != Path(__file__)}
    return {p: p.read_text(encoding="utf-8") for p in sorted(wanted)}


def anchors() -> set[str]:
    found = re.findall(r'<a id="([^"]+)"></a>', METHOD.read_text(encoding="utf-8"))
    assert len(found) == len(set(found))
    return set(found)


def cited(text: str) -> list[str]:
    return [name[1:] for match in CITATION.finditer(text) for name in re.findall(SECTION, match[1])]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(docs/method.md#b).", ["b"]),
        ("docs/method.md#e.14: why", ["e.14"]),
        ("docs/method.md#f, #g.1 and more", ["f", "g.1"]),
        ("docs/method.md#a to #e.", ["a", "e"]),
    ],
)
def test_citations_are_found(text, expected):
    assert cited(text) == expected


def test_every_citation_leads_to_a_section():
    known, wrong, count = anchors(), [], 0
    for path, text in texts().items():
        names = cited(text)
        count += len(names)
        wrong += [f"{path.relative_to(ROOT)}: #{name}" for name in names if name not in known]
        if len(ANY_CITATION.findall(text)) != len(CITATION.findall(text)):
            wrong.append(f"{path.relative_to(ROOT)}: a citation that is none, expected docs/method.md#letter.number")
    assert wrong == []
    assert count > 100


def test_no_citation_of_a_specification_is_left():
    left = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path, text in texts().items()
        for match in SPECIFICATION.finditer(text)
    ]
    assert left == []


def test_links_within_the_page_lead_to_a_section():
    links = re.findall(r"\]\(#([^)]+)\)", METHOD.read_text(encoding="utf-8"))
    assert links and set(links) <= anchors()


def test_code_that_the_page_names_exists():
    wrong, count = [], 0
    for path, name in re.findall(r"`([\w/]+\.(?:py|yaml))(?::(\w+))?`", METHOD.read_text(encoding="utf-8")):
        count += 1
        file = next((f for f in (ROOT / "gaussianocc_core" / path, ROOT / path) if f.is_file()), None)
        if file is None or (name and name not in defined_in(file)):
            wrong.append(f"{path}:{name}" if name else path)
    assert wrong == []
    assert count > 40


def defined_in(path: Path) -> set[str]:
    """Functions, classes and constants at the top of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
