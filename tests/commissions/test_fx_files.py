import io
import zipfile
from datetime import date

import pytest

from commissions import fx_files
from commissions.fx_rates import Quote
from kernel.errors import InvalidInput, TooLarge

DAILY = """<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01"
 xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
 <gesmes:subject>Reference rates</gesmes:subject>
 <Cube><Cube time='2024-03-28'>
  <Cube currency='USD' rate='1.0811'/><Cube currency='JPY' rate='163.45'/>
 </Cube></Cube>
</gesmes:Envelope>"""
HISTORY = "Date,USD,JPY,ISK,\n2024-04-02,1.0749,163.01,N/A,\n2024-03-28,1.0811,163.45,150.1,\n"
DAY = date(2024, 3, 28)


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, HISTORY)
    return file.getvalue()


def test_the_daily_xml() -> None:
    assert fx_files.read(DAILY.encode()) == [
        Quote(DAY, "EUR", "USD", "1.0811"),
        Quote(DAY, "EUR", "JPY", "163.45"),
    ]


@pytest.mark.parametrize("content", [HISTORY.encode(), zipped("eurofxref-hist.csv")])
def test_the_history_leaves_out_what_is_not_there(content: bytes) -> None:
    found = fx_files.read(content)
    assert len(found) == 5
    assert found[0] == Quote(date(2024, 4, 2), "EUR", "USD", "1.0749")
    assert found[-1] == Quote(DAY, "EUR", "ISK", "150.1")


def test_the_csv_of_a_day_writes_its_day_out() -> None:
    content = b"Date, USD, JPY, \n28 March 2024, 1.0811, 163.45, \n"
    assert fx_files.read(content)[0] == Quote(DAY, "EUR", "USD", "1.0811")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "header"),
        (b"<html>", "xml"),
        (b"<a/>", "empty"),
        (b"Date,USD\n", "empty"),
        (b"Day,USD\n2024-03-28,1\n", "header"),
        (b"Date,USD\nyesterday,1\n", "rates"),
        (b"Date,Dollar\n2024-03-28,1\n", "rates"),
        (b"PK\x03\x04 no archive", "zip"),
        (zipped("a", "b"), "zip"),
        (b"Date,\xff\n", "csv"),
        (
            b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><Cube time="&x;"/></a>',
            "xml",
        ),
    ],
)
def test_another_file_is_refused_as_a_whole(content: bytes, rule: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        fx_files.read(content)
    assert [(one.field, one.rule) for one in refused.value.problems] == [("file", rule)]


def test_a_file_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fx_files, "BYTES_MAX", 60)
    for content in (HISTORY.encode(), zipped("a")):
        with pytest.raises(TooLarge):
            fx_files.read(content)
