"""A file imports only lower layers or its own folder: the table of `docs/architecture.md`."""

import ast
from pathlib import Path

import jaxqa

ROOT = Path(jaxqa.__file__).parent
LAYERS = (
    ("typing", "tree", "errors", "files", "configuration", "processes", "sharding"),
    ("nn", "metrics"),
    ("models", "rewards"),
    ("data", "sampling", "objectives"),
    ("train", "scoring"),
    ("reasoning", "distill", "evaluation"),
    ("serving", "selection"),
    ("stages",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """First-level parts of jaxqa that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("jaxqa.")}


def part(path: Path) -> str:
    """First-level part that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent != ROOT or path.stem != "__init__"
    ]


def test_every_file_has_a_layer():
    assert {part(path) for path in sources()} <= LEVEL.keys()


def test_files_import_only_lower_layers():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in sources()
        for other in sorted(imported(path))
        if other != part(path)
        and LEVEL[other] >= LEVEL[part(path)]
        and not (LEVEL[other] == LEVEL[part(path)] == 0)  # single files at the bottom
    ]
    assert not wrong, "\n".join(wrong)


def test_flax_stays_inside_the_models():
    users = {part(path) for path in sources() if "flax" in path.read_text()}
    assert users <= {"nn", "models"}


def test_only_the_doors_read_argv_and_environment():
    wrong = [
        str(path.relative_to(ROOT))
        for path in sources()
        if part(path) != "cli" and any(w in path.read_text() for w in ("sys.argv", "os.environ"))
    ]
    assert not wrong
