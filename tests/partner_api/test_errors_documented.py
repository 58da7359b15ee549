"""The reference in docs/ names every error code and every operation, and nothing that is not."""

import importlib
import pkgutil
import re

import pytest

from kernel import problems
from kernel.errors import AppError
from partner_api import app, openapi
from tests.conftest import REPOSITORY
from tracker.http import ENDPOINTS

PACKAGES = (
    "kernel",
    "network",
    "tracker",
    "fraud",
    "commissions",
    "feeds",
    "partner_api",
    "console",
)
REFERENCE = REPOSITORY / "docs" / "reference"


@pytest.fixture(scope="module")
def every_module() -> None:
    """Error classes exist once their module is loaded."""
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(module.name)


def documented() -> dict[str, int]:
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    return {
        code: int(status)
        for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE)
    }


@pytest.mark.usefixtures("every_module")
def test_every_error_code_is_documented_with_its_status() -> None:
    expected = {
        (kind.code, problems.status_of(kind))
        for kind in problems.every_error()
        if kind is not AppError and kind.__module__.partition(".")[0] in PACKAGES
    }
    expected |= {(code, status) for status, code, _ in openapi.SERVER_CODES}
    found = documented()

    missing = sorted({code for code, _ in expected} - set(found))
    assert not missing, f"add to docs/reference/errors.md: {missing}"
    for code, status in found.items():
        assert (code, status) in expected, code


@pytest.mark.usefixtures("every_module")
def test_no_documented_code_is_made_up() -> None:
    known = {kind.code for kind in problems.every_error()}
    known |= {code for _, code, _ in openapi.SERVER_CODES}
    assert sorted(set(documented()) - known) == []


def test_a_code_has_one_status(every_module: None) -> None:  # noqa: ARG001 - the classes are needed
    statuses: dict[str, set[int]] = {}
    for kind in problems.every_error():
        statuses.setdefault(kind.code, set()).add(problems.status_of(kind))
    assert {code: found for code, found in statuses.items() if len(found) > 1} == {}


def test_every_operation_is_documented() -> None:
    text = (REFERENCE / "http-api.md").read_text(encoding="utf-8")
    found = set(re.findall(r"^#+ `([A-Z]+ /[^`]*)`$", text, re.MULTILINE))
    ours = {f"{each.method} {each.path}" for each in app.endpoints(ENDPOINTS)}

    assert sorted(ours - found) == []
    assert sorted(line for line in found - ours if not line.startswith(TRACKER)) == []


# The tracker's own face, which has no `Endpoint` where a redirect or an image is answered.
TRACKER = (
    "GET /c/",
    "GET /i/",
    "GET /l/",
    "GET /pixel.gif",
    "GET /tag.js",
    "GET /postback",
    "POST /tag/",
)
