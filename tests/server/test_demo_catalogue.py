import csv
from datetime import date
from pathlib import Path

import pytest

from server import demo_catalogue, feed_check
from server.demo_network import PROGRAMS, DemoProgram

TODAY = date(2026, 11, 22)
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.code)


@each_program
def test_the_house_takes_every_row_without_a_warning(tmp_path: Path, program: DemoProgram) -> None:
    path = demo_catalogue.write(tmp_path, program)

    report = feed_check.check(
        path, currency=program.currency, domains=(program.domain,), today=TODAY
    )

    assert path.name == f"{program.code}.tsv"
    assert report["problems"] == []
    assert (report["rows"], report["taken"], report["errors"], report["warnings"]) == (24, 24, 0, 0)


@each_program
def test_a_program_has_the_same_catalogue_everywhere(tmp_path: Path, program: DemoProgram) -> None:
    first = demo_catalogue.write(tmp_path, program).read_bytes()
    (tmp_path / f"{program.code}.tsv").unlink()

    assert demo_catalogue.write(tmp_path, program).read_bytes() == first


def test_catalogues_show_sales_and_goods_that_are_gone(tmp_path: Path) -> None:
    rows = [
        row
        for program in PROGRAMS
        for row in csv.DictReader(
            demo_catalogue.write(tmp_path, program).read_text(encoding="utf-8").splitlines(),
            delimiter="\t",
        )
    ]

    assert len({row["id"] for row in rows}) == len(rows) == 96
    assert sum(row["availability"] == "out_of_stock" for row in rows) == 8
    assert 10 < sum(row["sale_price"] != "" for row in rows) < 40
