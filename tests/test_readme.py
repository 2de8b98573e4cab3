"""README.md and docs/: sizes, links, images, and the files and functions that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SYSTEMS = ("vunet", "landmarks", "bilayer", "dcign")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(?:#([\w-]+))?\)")
IMAGES = (".png", ".gif", ".jpg")


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(page):
    """(target, anchor) of every link of a page to a file of the repository."""
    found = LINK.findall(without_code(page.read_text(encoding="utf-8")))
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    text = without_code(page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_has_at_most_900_words():
    assert len(README.split()) <= 900


def test_the_readme_has_at_most_one_table_of_four_columns():
    tables = re.findall(r"^\|[-:| ]+\|$", README, re.MULTILINE)
    assert len(tables) <= 1
    assert all(table.count("|") - 1 <= 4 for table in tables)


def test_the_readme_has_five_recipes_and_a_python_snippet():
    recipes = README.partition("## Recipes")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*.+?```bash\n.+?```", recipes, re.DOTALL | re.MULTILINE)) == 5
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(snippet, "README.md", "exec")
    assert "import guise" in snippet


def test_the_readme_links_to_a_page_of_every_system():
    targets = {target for target, _ in links(ROOT / "README.md")}
    assert {f"docs/{system}.md" for system in SYSTEMS} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target, anchor in links(page):
        file = page.parent / target
        assert file.exists(), f"{page.name}: {target} is missing"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target} has no #{anchor}"


def test_every_image_is_shown_somewhere_and_small():
    shown = {(page.parent / target).resolve() for page in PAGES for target, _ in links(page)}
    images = [file for file in (ROOT / "docs").iterdir() if file.suffix in IMAGES]
    assert len(images) >= 5
    for image in images:
        assert image.resolve() in shown, f"{image.name}: no page shows it"
        assert image.stat().st_size <= 300_000, f"{image.name}: more than 300 kB"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_and_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    configs = {file.name for file in (ROOT / "configs").rglob("*.yaml")}
    for name in re.findall(r"--config ([\w.]+\.yaml)", text):
        assert name in configs, f"{page.name}: --config {name}"
    for name in re.findall(r"python -m (nets[\w.]*)", text):
        module = ROOT / name.replace(".", "/")
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name
    for name in re.findall(r"`((?:nets|csrc|tests|benchmarks|configs|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name} is missing"


def test_every_function_of_the_guided_tour_is_in_its_file():
    text = " ".join((ROOT / "docs/architecture.md").read_text(encoding="utf-8").split())
    named = re.findall(r"`([\w.]+)` (?:\(|in |of )`(nets/[\w/.]+\.py)`", text)
    assert len(named) >= 15
    for name, file in named:
        code = (ROOT / file).read_text(encoding="utf-8")
        last = name.rpartition(".")[2]
        assert re.search(rf"^ *(?:def|class) {last}\b", code, re.MULTILINE), f"{file}: no {name}"
