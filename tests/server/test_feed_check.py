from datetime import date
from pathlib import Path
from typing import Any

import pytest

from server import feed_check

TODAY = date(2026, 11, 22)
COLUMNS = "id\ttitle\tdescription\tlink\timage_link\tavailability\tprice\n"
GOOD = (
    "a1\tKettle\tBoils water.\thttps://www.shop.example/kettle\t"
    "https://cdn.example.net/k.jpg\tin_stock\t15.00 EUR\n"
)


def check(path: Path, text: str, **options: Any) -> dict[str, Any]:
    file = path / "feed.tsv"
    file.write_text(text, encoding="utf-8")
    given: dict[str, Any] = {"currency": "EUR", "domains": (), "today": TODAY}
    return feed_check.check(file, **given | options)


def test_a_good_feed_has_nothing_to_say(tmp_path: Path) -> None:
    report = check(tmp_path, COLUMNS + GOOD)

    assert report == {
        "file": "feed.tsv",
        "format": report["format"],
        "rows": 1,
        "taken": 1,
        "errors": 0,
        "warnings": 0,
        "rules": {},
        "problems": [],
    }
    assert feed_check.text(report) == (
        f"feed.tsv: {report['format']}, 1 rows, 1 taken, 0 errors, 0 warnings"
    )


def test_each_broken_row_is_named_with_row_column_and_rule(tmp_path: Path) -> None:
    bad = GOOD.replace("a1\t", "a2\t").replace("15.00 EUR", "0.00 EUR")
    odd = GOOD.replace("a1\t", "a3\t").replace("15.00 EUR", "15.00EUR")

    report = check(tmp_path, COLUMNS + GOOD + bad + odd)

    assert (report["rows"], report["taken"]) == (3, 2)
    assert (report["errors"], report["warnings"]) == (1, 1)
    assert report["rules"] == {"price_zero": 1, "price_spelling": 1}
    assert [
        (entry["row"], entry["column"], entry["rule"], entry["severity"])
        for entry in report["problems"]
    ] == [(3, "price", "price_zero", "error"), (4, "price", "price_spelling", "warning")]
    shown = feed_check.text(report).split("\n")
    assert len(shown) == 3
    assert shown[1].startswith("  row 3 price error price_zero: ")


def test_another_currency_is_an_error(tmp_path: Path) -> None:
    report = check(tmp_path, COLUMNS + GOOD, currency="GBP")

    assert (report["taken"], report["rules"]) == (0, {"price_currency": 1})


@pytest.mark.parametrize(
    ("domains", "taken"),
    [((), 1), (("shop.example",), 1), (("other.example", "shop.example"), 1), (("evil.test",), 0)],
)
def test_domains_bind_when_they_are_named(
    tmp_path: Path, domains: tuple[str, ...], taken: int
) -> None:
    report = check(tmp_path, COLUMNS + GOOD, domains=domains)

    assert (report["taken"], report["errors"]) == (taken, 1 - taken)


@pytest.mark.parametrize("link", ["", "http://[broken/", "ftp://shop.example/k"])
def test_without_domains_a_link_must_still_be_one(tmp_path: Path, link: str) -> None:
    report = check(tmp_path, COLUMNS + GOOD.replace("https://www.shop.example/kettle", link))

    assert (report["taken"], report["errors"]) == (0, 1)
    assert report["problems"][0]["column"] == "link"


def test_a_file_that_is_no_feed_is_one_error(tmp_path: Path) -> None:
    report = check(tmp_path, "\x00\x01\x02")

    assert (report["format"], report["rows"], report["errors"]) == (None, 0, 1)
    (problem,) = report["problems"]
    assert (problem["severity"], set(problem)) == ("error", {"rule", "severity", "message"})
    assert feed_check.text(report).startswith("feed.tsv: unknown format, 0 rows, 0 taken, 1 errors")


def test_only_the_first_problems_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    bad = GOOD.replace("15.00 EUR", "0.00 EUR")

    report = check(tmp_path, COLUMNS + bad * 250)

    assert (report["rows"], report["taken"], report["errors"]) == (250, 0, 250)
    assert report["rules"] == {"price_zero": 250}
    assert len(report["problems"]) == 200
