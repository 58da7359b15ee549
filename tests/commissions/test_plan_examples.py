"""The worked examples of docs/concepts/commission-plans.md are what the engine computes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from commissions.rules import evaluate, parse_events, parse_plan
from kernel.money import format_amount

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "commission-plans.md"
FENCED = re.compile(r"```json\n(.*?)```\n\n(.*)", re.DOTALL)


def examples() -> list[tuple[str, str, str]]:
    """(heading, document, table) of every example on the page."""
    found = []
    for part in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        match = FENCED.search(part)
        if match:
            heading = part.splitlines()[0]
            rows = [line for line in match[2].splitlines() if line.startswith("|")]
            found.append((heading, match[1], "\n".join(rows)))
    return found


EXAMPLES = examples()


def amounts(document: dict[str, Any], upto: int, *, by_publisher: bool) -> dict[str, int]:
    plan = parse_plan(document["program"], document["rules"])
    priced = evaluate(plan, parse_events(document["events"][:upto], plan.zone))
    if not by_publisher:
        return {name: one.commission_minor for name, one in priced.items()}
    return {
        f"{name} {publisher}": minor
        for name, one in priced.items()
        for publisher, minor in one.payees.items()
    }


def table(document: dict[str, Any]) -> list[list[str]]:
    """The table below an example, as the engine would write it."""
    by_publisher = any("shares" in event for event in document["events"])
    events, currency = document["events"], document["program"]["currency"]
    columns = list(amounts(document, len(events), by_publisher=by_publisher))
    rows = [["event", *columns, "booked"]]
    before = 0
    for upto, event in enumerate(events, start=1):
        now = amounts(document, upto, by_publisher=by_publisher)
        delta = sum(now.values()) - before
        before += delta
        name = event.get("id") or f"{event['type']} of {event['conversion']}"
        cells = [format_amount(now[one], currency) if one in now else "" for one in columns]
        rows.append([name, *cells, ("+" if delta > 0 else "") + format_amount(delta, currency)])
    return rows


def cells(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in rows if set("".join(row)) != {"-"}]


def test_there_is_an_example_of_everything() -> None:
    names = [name for name, _, _ in EXAMPLES]
    assert names == [
        *("Graduated", "Volume", "Status", "Order", "Rolling windows", "Campaigns", "Caps"),
        *("Caps of orders", "Bonuses", "Split", "VAT", "Exchange", "Freeze"),
    ]
    text = PAGE.read_text(encoding="utf-8")
    assert len(names) == text.count("```json") == text.count("\n### ")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one[0])
def test_an_example_computes_what_its_table_says(example: tuple[str, str, str]) -> None:
    _, document, shown = example
    assert cells(shown) == table(json.loads(document))


def test_a_number_that_is_changed_on_the_page_is_found() -> None:
    _, document, shown = EXAMPLES[0]
    assert cells(shown.replace("55.00", "55.01", 1)) != table(json.loads(document))
