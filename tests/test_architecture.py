"""The house: modules import from their own folder and those above it, and docs/developers.md has a line for each."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "maskbank"
# From the bottom of the house to its top; a module at the package's root is a folder of its own.
LAYERS = [
    "errors",
    "deadline",
    "resources",
    "files",
    "shapes",
    "bank",
    "networks",
    "tuning",
    "store",
    "settings",
    "tracking",
]
LAYERS += ["service", "function", "serving", "proposals", "evaluation", "review", "jobs", "training", "cli"]


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]


def layer_of(name: str) -> str:
    """Of a module's dotted name."""
    return name.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """The dotted names of the package's modules that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("maskbank."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("maskbank.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} has a relative import"
    return found


def test_no_import_points_up_or_in_a_circle() -> None:
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()} == set(LAYERS)
    for path in modules():
        own = LAYERS.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        for name in imports_of(path):
            assert LAYERS.index(layer_of(name)) <= own, f"{path.relative_to(ROOT)} imports {name}, which is above it"


def test_what_the_function_ships_needs_nothing_else() -> None:
    """deploy.sh leaves out these folders."""
    left_out = {"serving", "proposals", "evaluation", "review", "jobs", "training", "cli"}
    for path in modules():
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in left_out:
            assert not left_out & set(map(layer_of, imports_of(path))), path


def test_the_map_has_a_line_for_each_module_in_this_order() -> None:
    text = (ROOT / "docs" / "developers.md").read_text()
    lines = text[text.index("## Map") :].splitlines()
    folder, listed = "", []
    for line in lines:
        if line.endswith("/") and line[:1].isalpha():
            folder = line
        elif line.split(" ")[0].endswith(".py"):
            listed.append(line.split(" ")[0])
        elif line.startswith("  ") and line[2:3].strip() and ".py " in line:
            listed.append(folder + line.split()[0])
    assert sorted(listed) == sorted(str(path.relative_to(PACKAGE)) for path in modules())
    order = [LAYERS.index(name.split("/")[0].removesuffix(".py")) for name in listed]
    assert order == sorted(order)
