"""The reference says what the code has: a name that is missing or gone fails the build."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import msgspec
import pytest
from pydantic.fields import FieldInfo

import fraud.signals
import tracker.changes
import tracker.conversions
from commissions import statements
from commissions.models import CommissionStatus
from commissions.reasons import Reason
from kernel import problems
from kernel.keys import Keys
from kernel.settings import PREFIX, TEST_VARIABLES, Settings
from server import pipeline
from server.cli import cli
from tracker import events
from tracker.clicks import Unbillable
from tracker.rules import AttributionReason

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PACKAGES = sorted(path.parent.name for path in REPOSITORY.glob("*/__init__.py"))
PAGES = sorted(
    [*DOCS.rglob("*.md"), *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md"))]
)
# Names that look like settings and are read by other programs.
FOREIGN_VARIABLES = {"TALLYSTICK_X"}


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Text under each heading that is one code span, by that code."""
    parts = re.split(r"^#{2,4} `([^`]+)`.*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def setting_row(name: str, field: FieldInfo) -> str:
    """The row of a setting in docs/reference/settings.md."""
    default = "" if field.default is None else str(field.default)
    shown = f"`{default}`" if default else "empty"
    limits = [
        f"{sign} {getattr(rule, word)}"
        for rule in field.metadata
        for word, sign in (("ge", "at least"), ("le", "at most"))
        if getattr(rule, word, None) is not None
    ]
    rule = f" ({', '.join(limits)})" if limits else ""
    return f"| `{PREFIX}{name.upper()}` | {shown} | {field.description}{rule} |"


def commands(group: click.Group, path: str = "tallystick") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        elif not command.hidden:
            yield f"{path} {name}", command


def every_module() -> None:
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(REPOSITORY / package)], f"{package}."):
            if not found.name.endswith("__main__") and ".migrations" not in found.name:
                importlib.import_module(found.name)


def test_the_settings_page_is_the_settings_class() -> None:
    rows = [line for line in reference("settings").splitlines() if line.startswith(f"| `{PREFIX}")]

    assert rows == [setting_row(name, field) for name, field in Settings.model_fields.items()]


def test_every_test_variable_is_explained() -> None:
    text = (DOCS / "development" / "testing.md").read_text(encoding="utf-8")

    assert [name for name in sorted(TEST_VARIABLES) if f"`{name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_pages_name_settings_and_commands_that_exist(page: Path) -> None:
    if not page.exists():
        pytest.fail(f"{page.relative_to(REPOSITORY)} is missing")
    text = page.read_text(encoding="utf-8")
    known = {PREFIX + name.upper() for name in Settings.model_fields} | TEST_VARIABLES
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", text))
    called = set(re.findall(r"(?:^|`|&& )tallystick ([a-z]+)", text, re.MULTILINE))

    assert named - known - FOREIGN_VARIABLES == set()
    assert called - set(cli.commands) == set()


def test_every_command_and_option_is_documented() -> None:
    documented = sections(reference("cli"))

    assert sorted(documented) == sorted(path for path, _ in commands(cli))
    missing = [
        f"{path} {option}"
        for path, command in commands(cli)
        for parameter in command.params
        for option in (
            parameter.opts
            if isinstance(parameter, click.Option)
            else [parameter.make_metavar(click.Context(command))]
        )
        if f"`{option}" not in documented[path]
    ]
    assert missing == []


def test_every_event_of_the_pipeline_is_documented() -> None:
    kinds = set(pipeline.handlers(Keys(b"k" * 32)))

    assert {tracker.conversions.RECORDED, tracker.changes.CHANGED} <= kinds
    assert set(sections(reference("events"))) == kinds


def test_every_reason_is_documented_with_its_sentence() -> None:
    text = reference("reasons")

    assert [code for code in Reason if f"| `{code}` | {code.sentence} |" not in text] == []


@pytest.mark.parametrize(
    "codes",
    [
        list(AttributionReason),
        list(Unbillable),
        [*CommissionStatus, statements.UNATTRIBUTED, statements.RECORDED],
    ],
    ids=["attribution", "clicks", "statuses"],
)
def test_every_code_of_the_tracker_and_every_status_is_documented(codes: list[str]) -> None:
    text = reference("reasons")

    assert [str(code) for code in codes if f"| `{code}` | " not in text] == []


def test_reasons_that_are_gone_are_not_documented() -> None:
    codes = {*Reason, *AttributionReason, *Unbillable, *CommissionStatus, *refusal_codes()}
    codes |= {statements.UNATTRIBUTED, statements.RECORDED}

    assert set(re.findall(r"^\| `(\w+)` \| ", reference("reasons"), re.MULTILINE)) - codes == set()


def refusal_codes() -> set[str]:
    """Codes of acknowledged events that could not be recorded, as the tracker writes them."""
    sources = "".join(path.read_text() for path in (REPOSITORY / "tracker").glob("*.py"))
    given = set(re.findall(r"code=\"(\w+)\"", sources))
    return given | {
        kind.code for kind in problems.every_error() if kind.__module__[:7] == "tracker"
    }


def test_every_refusal_of_the_tracker_s_own_is_documented() -> None:
    sources = "".join(path.read_text() for path in (REPOSITORY / "tracker").glob("*.py"))
    text = reference("reasons")

    codes = re.findall(r"code=\"(\w+)\"", sources)
    assert codes
    assert [code for code in codes if f"| `{code}` | " not in text] == []


def test_every_error_code_is_documented() -> None:
    every_module()
    text = reference("errors")

    codes = {
        kind.code for kind in problems.every_error() if kind.__module__.split(".")[0] in PACKAGES
    }
    assert sorted(code for code in codes if f"`{code}`" not in text) == []


def test_every_fraud_signal_is_documented() -> None:
    assert sorted(sections(reference("signals"))) == sorted(
        signal.CODE for signal in fraud.signals.SIGNALS
    )


def test_every_metric_is_documented() -> None:
    made = re.compile(r"(Counter|Gauge|Histogram)\(\s*\"(tallystick_\w+)\"")
    names = {
        f"{name}_total" if kind == "Counter" else name
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for kind, name in made.findall(path.read_text(encoding="utf-8"))
    }

    assert names
    documented = set(re.findall(r"^\| `(tallystick_\w+)", reference("metrics"), re.MULTILINE))
    assert documented == names


@pytest.mark.parametrize(
    "record",
    [
        events.ClickSeen,
        events.OrderReported,
        events.ChangeReported,
        events.ImpressionSeen,
        events.ArrivalsSeen,
        events.Order,
        events.Item,
    ],
    ids=lambda record: str(record.__name__),
)
def test_every_field_of_a_journal_record_is_documented(record: type[msgspec.Struct]) -> None:
    text = sections(reference("records"))[record.__name__]

    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(record.__struct_fields__)


def test_every_decision_is_listed() -> None:
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")

    records = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert records
    assert [path.name for path in records if f"]({path.name})" not in listed] == []


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path, anchor) of each relative link; code blocks are not links."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if "://" not in target and not target.startswith(("mailto:", "/")):
            path, _, anchor = target.partition("#")
            yield unquote(path), anchor


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists()
        if not is_there or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)

    assert broken == []


def test_every_page_is_reachable_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = ((page.parent / path).resolve() for path, _ in links(page) if path)
        waiting += [target for target in targets if target.suffix == ".md" and target.exists()]

    assert [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path not in seen] == []
