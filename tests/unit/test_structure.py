"""Rules of the repository itself."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked_files():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_every_python_file_of_the_product_says_why_it_is_there():
    for package in ("rayapp", "pipelines", "serve", "cluster", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert not text or text.startswith('"""'), path


def test_nothing_large_is_tracked():
    assert [path for path in tracked_files() if path.stat().st_size > 1_000_000] == []


def test_the_readme_names_every_top_level_folder():
    readme = (ROOT / "README.md").read_text()
    folders = {path.relative_to(ROOT).parts[0] for path in tracked_files() if len(path.relative_to(ROOT).parts) > 1}
    assert [folder for folder in sorted(folders) if not folder.startswith(".") and f"{folder}/" not in readme] == []


def test_links_between_documents_lead_somewhere():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
