"""make docs: every link of the documentation leads somewhere, and every function and test the paper map names
exists.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def broken_links(page: Path) -> list[str]:
    """Relative targets of Markdown links that do not exist."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return [t for t in targets if "://" not in t and not (page.parent / t).exists()]


def unknown_names(page: Path) -> list[str]:
    """`room/file.py::name` and `tests/...::test_name` that are not defined there."""
    missing = []
    for file, name in re.findall(r"`([\w/.]+\.py)::([\w.]+)`", page.read_text(encoding="utf-8")):
        path = ROOT / file if file.startswith(("tests/", "benchmarks/")) else ROOT / "src" / "evax" / file
        last = name.split(".")[-1]
        if not path.is_file() or not re.search(
            rf"(def|class) {last}\b|^\s*{last}\b.*[=:]", path.read_text(encoding="utf-8"), re.M
        ):
            missing.append(f"{file}::{name}")
    return missing


def main() -> int:
    """Prints what is wrong; 1 when something is."""
    faults = [
        f"{page.relative_to(ROOT)}: {fault}"
        for page in PAGES
        for fault in broken_links(page) + unknown_names(page)
    ]
    sys.stdout.write("\n".join(faults or [f"{len(PAGES)} pages, every link and name found"]) + "\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
