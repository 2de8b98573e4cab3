"""The rooms of docs/architecture.md, held against the imports of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSTEMS = ("vunet", "landmarks", "bilayer", "dcign")
SHARED = ("run", "data", "worlds", "ops", "pretrained")
MODEL = ("ops", "layers", "spectral", "perceptual")  # what networks and losses may import, beside
PARTS = ("network", "losses", "layers", "code", "defaults", "rmsprop")  # these of their own


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(f): f for f in [*ROOT.glob("*.py"), *ROOT.glob("nets/**/*.py")]}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}


def names_of(name: str) -> list[tuple[str, str]]:
    """(module, imported name) of every import of a module, at its top or inside functions."""
    found = []
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join(filter(None, [*(above if node.level else []), node.module]))
            found += [(module, alias.name) for alias in node.names]
    return found


def defined_in(module: str, name: str) -> str:
    """Where a name comes from that a package hands on in its __init__.py."""
    if f"{module}.{name}" in FILES:
        return f"{module}.{name}"
    if module in FILES and FILES[module].name == "__init__.py":
        for inner, handed_on in names_of(module):
            if handed_on == name and inner != module:
                return defined_in(inner, name)
    return module


def imports_of(name: str) -> set[str]:
    """The modules of this project that a module imports, looked up where they are defined."""
    found = {defined_in(*pair) for pair in names_of(name)}
    return {module for module in found if module in FILES and module != name}


IMPORTS = {name: imports_of(name) for name in FILES}
FACES = {name for name in FILES if FILES[name].name == "__init__.py"}


def room(name: str) -> str:
    """vunet of nets.vunet.network; empty for the scripts and nets itself."""
    return name.split(".")[1] if name.startswith("nets.") else ""


def forbidden(name: str, other: str) -> bool:
    """Whether `name` must not import `other`."""
    here, there = room(name), room(other)
    if here in SYSTEMS and name.split(".")[2:3] and name.split(".")[2] in PARTS:
        return there not in MODEL and not (there == here and other.split(".")[2:3]
                                           and other.split(".")[2] in PARTS)  # fmt: skip
    if there in SYSTEMS:
        return here in SHARED or (here in SYSTEMS and here != there)
    return (here, there) in {("run", "data"), ("data", "run"), ("data", "worlds")}


def test_no_room_imports_what_it_must_not():
    wrong = [f"{a} imports {b}" for a in FILES for b in sorted(IMPORTS[a]) if forbidden(a, b)]
    assert not wrong


def test_no_circles():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in IMPORTS[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n, f in FILES.items() if f.name != "__init__.py"])
def test_a_small_file_has_two_users(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    command = '__name__ == "__main__"' in FILES[name].read_text(encoding="utf-8")
    users = sorted(other for other in FILES if name in IMPORTS[other] and other not in FACES)
    assert lines >= 80 or command or len(users) > 1, f"{lines} lines, users: {users}"


def test_no_two_public_classes_of_one_name():
    places: dict[str, list[str]] = {}
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}
