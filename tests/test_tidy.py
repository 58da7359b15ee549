"""What no linter here says: sizes, orphans, mirrored tests, and nothing of anybody's machine."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("*/__init__.py"))
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 500
# Started by name, not imported: `python -m server`, the console script, Alembic's own folder.
ENTRY_POINTS = {"server.__main__", "server.cli"}


def modules() -> Iterator[tuple[str, Path]]:
    """Name and file of every module but migrations, whose schema is one long list."""
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            if ".migrations." not in name:
                yield name.removesuffix(".__init__"), path


def committed_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - whichever git is installed
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout: which files are committed is not known")
    found = (REPOSITORY / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in found if path.is_file()]


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Everything an import may mean: `from a.b import c` is a.b and perhaps the module a.b.c."""
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_functions_and_modules_stay_small() -> None:
    large = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for _, path in modules()
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]
    long = [
        name
        for name, path in modules()
        if len(path.read_text(encoding="utf-8").splitlines()) > MODULE_LINES_MAX
    ]

    assert (large, long) == ([], [])


def test_imports_name_their_package() -> None:
    relative = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(syntax(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]

    assert relative == []


def test_every_package_is_under_the_contracts_and_installed() -> None:
    linter = PROJECT["tool"]["importlinter"]
    layers = next(entry for entry in linter["contracts"] if entry["name"] == "Packages form a DAG")
    layered = [name for layer in layers["layers"] for name in re.split(r"\s*\|\s*", layer)]
    installed = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]

    assert sorted(linter["root_packages"]) == PACKAGES
    assert sorted(layered) == PACKAGES
    assert sorted(name.removesuffix("*") for name in installed) == PACKAGES


def test_no_module_is_an_orphan() -> None:
    used = {name for _, path in modules() for name in imported(path)} | ENTRY_POINTS
    used |= set(imported(REPOSITORY / "server" / "migrations" / "env.py"))

    orphans = [name for name, path in modules() if name not in used and path.stem != "__init__"]

    assert orphans == []


def test_a_test_module_mirrors_a_module_or_says_what_it_crosses() -> None:
    lost = []
    for package in PACKAGES:
        for path in (REPOSITORY / "tests" / package).rglob("test_*.py"):
            folder = REPOSITORY / path.parent.relative_to(REPOSITORY / "tests")
            name = path.stem.removeprefix("test_")
            mirrors = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
            if not mirrors and not ast.get_docstring(syntax(path)):
                lost.append(str(path.relative_to(REPOSITORY)))

    assert lost == []


def test_nothing_committed_names_a_machine_or_a_registry() -> None:
    # Put together here, because this file is committed, too.
    foreign = [f"/{'work'}/", f"pypi.{'org'}", f"files.pythonhosted.{'org'}", f"/{'home'}/"]
    found = [
        f"{path.relative_to(REPOSITORY)}: {word}"
        for path in committed_files()
        for word in foreign
        if word.encode() in path.read_bytes()
    ]

    assert found == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_hold_hashes_and_no_address(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")

    assert "://" not in text
    assert "--hash=sha256:" in text
    assert not re.search(r"^\s*--(extra-)?index-url", text, re.MULTILINE)


def test_the_changelog_begins_with_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]? - \d{4}-\d\d-\d\d$", text, re.MULTILINE)

    assert versions[:1] == [PROJECT["project"]["version"]]
