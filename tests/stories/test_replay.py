"""A shop's order file through a running server, and the sums of both sides beside one another."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from kernel.money import format_amount
from tests.stories.house import House, command

pytestmark = pytest.mark.xdist_group("house")

_COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
# (country in the file, its code, orders)
_COUNTRIES = (
    ("United Kingdom", "GB", 8),
    ("EIRE", "IE", 4),
    ("Germany", "DE", 3),
    ("Brazil", "BR", 2),
    ("Japan", "JP", 2),
    ("Unspecified", "-", 1),
)
Row = tuple[str, str, str, int, str, str, str, str]


def book(first: int) -> tuple[list[Row], dict[str, tuple[int, int]]]:
    """Twenty orders and what happened to them; orders and pence (less refunds) by country."""
    rows: list[Row] = []
    expected = {}
    number = first
    for country, code, orders in _COUNTRIES:
        total_minor = 0
        for at in range(orders):
            when = f"2011-07-{1 + at:02d} 10:{at:02d}:00"
            customer = f"{number}.0"
            rows.append((str(number), "84029", "jug", 2, when, "3.39", customer, country))
            rows.append((str(number), "POST", "postage", 1, when, "4.5", customer, country))
            total_minor += 2 * 339 + 450
            number += 1
        expected[code] = (orders, total_minor)
    gb = str(first)
    rows += [
        # One jug of the first order comes back, and more jugs than the second one had.
        (f"C{first}", "84029", "jug", -1, "2011-08-01 09:00:00", "3.39", f"{gb}.0", "EIRE"),
        (f"C{first + 1}", "84029", "x", -3, "2011-08-02 09:00:00", "3.39", f"{first + 1}.0", ""),
        # Nobody bought this, and nobody knows who bought that.
        (f"C{first + 2}", "22423", "x", -1, "2011-08-03 09:00:00", "9.95", f"{gb}.0", ""),
        (str(number), "84029", "jug", 1, "2011-08-04 09:00:00", "3.39", "", "United Kingdom"),
        (f"C{first + 3}", "84029", "x", -1, "2011-08-05 09:00:00", "3.39", "", ""),
        (str(number + 1), "84029", "lost", 4, "2011-08-06 09:00:00", "0.0", f"{gb}.0", "EIRE"),
    ]
    rows = [row if row[7] else (*row[:7], "United Kingdom") for row in rows]
    orders, total_minor = expected["GB"]
    expected["GB"] = (orders + 1, total_minor + 339 - 339 - 2 * 339)
    return rows, expected


def write(path: Path, rows: Sequence[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
    return path


def replay(house: House, file: Path, *options: str) -> "CompletedProcess[str]":
    return command(
        house.data_dir, "demo", "replay", str(file), "--base-url", house.base_url, *options
    )


def reconciled(text: str) -> dict[str, list[str]]:
    """The lines of the table: country code -> orders, file, network, commission, difference."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if len(cells) == 6 and cells[1].isdigit():
            found[cells[0].split()[0]] = cells[1:]
    return found


def test_a_replay_agrees_with_the_file_to_the_penny_and_repeats_harmlessly(
    house: House, tmp_path: Path
) -> None:
    rows, expected = book(600_000)
    file = write(tmp_path / "orders.csv", rows)

    report = tmp_path / "remarks.csv"
    first = replay(house, file, "--report", str(report))

    assert first.returncode == 0, first.stdout + first.stderr
    with report.open(newline="") as opened:
        remarked = [row["code"] for row in csv.DictReader(opened)]
    assert sorted(remarked) == [
        "cancels_more_than_was_sold",
        "cancels_nothing_in_this_file",
        "cancels_nothing_in_this_file",
        "no_customer",
        "price_not_above_zero",
    ]
    assert "21 orders with 41 lines, 2 cancelled lines matched to their sale" in first.stdout
    for remark in (
        "2 lines cancels_nothing_in_this_file (-13.34 GBP)",
        "1 lines cancels_more_than_was_sold (-3.39 GBP)",
        "1 lines no_customer (3.39 GBP)",
        "1 lines price_not_above_zero (0.00 GBP)",
    ):
        assert remark in first.stdout
    assert "EIRE = IE" in first.stdout
    assert "Unspecified = (no country)" in first.stdout
    assert "new: 21 orders, 2 refunds, 20 orders the public way" in first.stdout
    assert "refused: 0" in first.stdout
    table = reconciled(first.stdout)
    assert {code: line[:3] + line[4:] for code, line in table.items() if code != "all"} == {
        code: [str(orders), *[format_amount(minor, "GBP")] * 2, "0.00"]
        for code, (orders, minor) in expected.items()
    }
    # Jugs to Germany pay 6 %, to Japan 8 %, to Brazil 3.50 an order, and 4 % elsewhere; postage
    # pays nothing: 6.78 -> 0.41, 0.54 and 0.27.
    assert {code: table[code][3] for code in ("DE", "JP", "BR", "-")} == {
        "DE": "1.23",
        "JP": "1.08",
        "BR": "7.00",
        "-": "0.27",
    }
    assert "0 differences" in first.stdout
    assert "audit: every invariant holds" in first.stdout

    second = replay(house, file)

    assert second.returncode == 0, second.stdout + second.stderr
    assert "nothing changed: the server had all of it" in second.stdout
    assert "known before: 21 orders, 2 refunds, 20 the public way" in second.stdout
    assert reconciled(second.stdout) == table


def test_an_order_that_was_tampered_with_is_an_explained_difference(
    house: House, tmp_path: Path
) -> None:
    file = write(tmp_path / "orders.csv", [row for row in book(700_000)[0] if row[0] < "700003"])
    manager = house.api(house.demo["manager"])
    tampered = manager.post(
        "/v1/conversions",
        {
            "program": "hearth-uk",
            "order_id": "700001",
            "amount": "99.00",
            "currency": "GBP",
            "country": "GB",
            "occurred_at": "2011-07-02T09:01:00Z",
        },
    )
    assert tampered.status_code == 202
    manager.idle()

    done = replay(house, file)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused: 1" in done.stdout
    assert "700001 (GB): file 11.28, network 99.00: order_conflict" in done.stdout
    assert "1 differences, all of them explained" in done.stdout
    assert reconciled(done.stdout)["GB"][-1] == "87.72"
    assert manager.conversion("700001")["amount"]["minor"] == 9_900
    manager.close()


def test_a_file_that_was_not_replayed_does_not_reconcile(house: House, tmp_path: Path) -> None:
    file = write(tmp_path / "orders.csv", book(800_000)[0][:2])

    done = command(house.data_dir, "demo", "replay", str(file), "--base-url", "http://127.0.0.1:1")

    assert done.returncode == 1
    assert "the replay stopped: " in done.stdout
    assert "Reconciliation" not in done.stdout
