"""make docs: every link, function, test and section that the documentation names exists; the drawing is
current.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from draw_architecture import PICTURE, drawing

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FACTS = ROOT / "docs" / "explanation" / "paper-facts.md"


def broken_links(page: Path) -> list[str]:
    """Links of Markdown whose file or section does not exist, and malformed addresses of the web."""
    broken = []
    for target, section in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        if "://" in target:
            if not re.fullmatch(r"https?://[\w-]+(\.[\w-]+)+(:\d+)?(/\S*)?", target):
                broken.append(target)
            continue
        if not file.exists() or (section and file.suffix == ".md" and section not in sections_of(file)):
            broken.append(f"{target}#{section}" if section else target)
    return broken


def sections_of(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def unknown_names(page: Path) -> list[str]:
    """`room/file.py` and `room/file.py::name`, also of tests, where there is no such file or name."""
    missing = []
    for file, name in re.findall(r"`([\w.]+/[\w/.]+\.py)(?:::([\w.]+))?`", page.read_text(encoding="utf-8")):
        if page == FACTS or Path(file).stem.lower() == "name":  # files of other repositories; a placeholder
            continue
        inside = file.startswith(("src/", "tests/", "benchmarks/", "docs/"))
        path = ROOT / file if inside else ROOT / "src" / "evax" / file
        last = name.split(".")[-1]
        pattern = rf"(def|class) {last}\b|^\s*{last}\b.*[=:]"
        if not path.is_file() or (name and not re.search(pattern, path.read_text(encoding="utf-8"), re.M)):
            missing.append(f"{file}::{name}" if name else file)
    return missing


def unknown_sections() -> list[str]:
    """Sections of paper-facts.md that a comment or docstring cites and the page lacks."""
    known = set(re.findall(r"^##+ ([\d.]+\d|\d)", FACTS.read_text(encoding="utf-8"), re.M))
    citation = re.compile(r"\b(?:paper-)?facts(?:\.md)?,? (?:sections? )?((?:\d(?:\.\d)?(?:, | and |-)?)+)")
    return [
        f"{path.relative_to(ROOT)}: no section {section} in paper-facts.md"
        for room in ("src", "tests", "benchmarks")
        for path in sorted((ROOT / room).rglob("*.py"))
        for cited in citation.findall(path.read_text(encoding="utf-8"))
        for section in re.findall(r"\d(?:\.\d)?", cited)
        if section not in known
    ]


def main() -> int:
    """Prints what is wrong; 1 when something is."""
    faults = [
        f"{page.relative_to(ROOT)}: {fault}"
        for page in PAGES
        for fault in broken_links(page) + unknown_names(page)
    ]
    faults += unknown_sections()
    if not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawing():
        faults.append(f"{PICTURE.relative_to(ROOT)} is old: run python docs/draw_architecture.py")
    sys.stdout.write("\n".join(faults or [f"{len(PAGES)} pages, every link and name found"]) + "\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
