"""Files of orders: every spelling of a CSV, workbooks, bad files, and jobs that go on."""

import csv
import io
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from kernel import clock
from kernel.errors import AppError
from tracker import order_files, upload_work
from tracker.models import Conversion, ConversionChange, OrderUpload, OrderUploadRow
from tracker.order_files import Reading

READING = Reading(rows_max=100, decoded_bytes_max=10**7)
PATH = "/v1/conversions/uploads"


def upload(tracker: Any, bearer: str, content: bytes, query: str = "", **more: Any) -> Any:
    headers = {"authorization": f"Bearer {bearer}", "content-type": "text/csv"}
    return tracker.http.post(f"{PATH}{query}", content=content, headers=headers, **more)


def get(tracker: Any, bearer: str, path: str) -> Any:
    return tracker.http.get(f"{PATH}/{path}", headers={"authorization": f"Bearer {bearer}"})


def work(tracker: Any, upload_id: str) -> None:
    async def run() -> bool:
        return await upload_work.work(tracker.node, upload_id, owner="t")

    assert tracker.run(run) is True


def workbook(*lines: list[Any]) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for line in lines:
        sheet.append(line)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


FILE = """Order ID;Click;Amount;Currency;custom[shop];Note
1;abc;12,50;EUR;north;x
2;;3,00;EUR;;
2;;3,00;EUR;;
2;;4,00;EUR;;
3;;1.2.3;EUR;;
;;1,00;EUR;;
"""


def test_a_file_is_worked_row_by_row(tracker: Any, world: Any) -> None:
    taken = upload(tracker, world.advertiser, FILE.encode("cp1252"), "?decimal=,&file_name=a.csv")
    assert taken.status_code == 202, taken.text
    job = taken.json()
    assert (job["status"], job["rows_total"], job["rows_done"]) == ("queued", 6, 0)
    assert (job["file_name"], job["format"], job["unused_columns"]) == ("a.csv", "csv", "Note")
    work(tracker, job["id"])
    done = get(tracker, world.advertiser, job["id"]).json()
    counted = [done[name] for name in ("accepted", "duplicates", "conflicts", "invalid")]
    assert (done["status"], done["rows_done"], counted) == ("done", 6, [2, 1, 1, 2])
    rows = get(tracker, world.advertiser, f"{job['id']}/rows").json()["data"]
    assert [(row["row"], row["status"], row["field"], row["rule"]) for row in rows] == [
        (2, "accepted", "", ""),
        (3, "accepted", "", ""),
        (4, "duplicate", "", ""),
        (5, "conflict", "", "order_conflict"),
        (6, "invalid", "amount", "amount"),
        (7, "invalid", "order_id", "missing"),
    ]
    assert rows[1]["receipt"] == rows[2]["receipt"]
    invalid = get(tracker, world.advertiser, f"{job['id']}/rows?status=invalid&limit=1").json()
    assert ([row["row"] for row in invalid["data"]], invalid["next_after"]) == ([6], 6)
    result = get(tracker, world.advertiser, f"{job['id']}/result.csv")
    assert result.headers["content-disposition"].startswith("attachment")
    lines = list(csv.DictReader(io.StringIO(result.content.decode("utf-8-sig"))))
    assert [line["status"] for line in lines] == [row["status"] for row in rows]
    tracker.ship()
    found = {row.order_id: row for row in tracker.rows(Conversion)}
    assert found["1"].amount_minor == 1250
    assert (found["1"].click_id, found["1"].custom) == ("abc", {"shop": "north"})
    assert found["1"].channel == "upload"
    # The file itself is not kept.
    assert [row.content for row in tracker.rows(OrderUpload)] == [b""]


def test_an_interrupted_file_goes_on_and_says_each_row_once(
    sqlite_engine: Any, world: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = serve(sqlite_engine, upload_chunk_rows=2)
    lines = "".join(f"{number},{number}.00,EUR\n" for number in range(1, 6))
    taken = upload(tracker, world.advertiser, f"order_id,amount,currency\n{lines}".encode())
    real, calls = upload_work._note, []

    def note(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the power went")
        real(*arguments)

    monkeypatch.setattr(upload_work, "_note", note)
    with pytest.raises(OSError, match="power"):
        work(tracker, taken.json()["id"])
    monkeypatch.undo()
    tracker.ship()
    tracker.run(tracker.node.refresh)
    work(tracker, taken.json()["id"])
    rows = tracker.rows(OrderUploadRow)
    assert sorted((row.row, row.status) for row in rows) == [
        (number, "accepted") for number in range(2, 7)
    ]
    tracker.ship()
    assert len(tracker.rows(Conversion)) == 5


def test_changes_by_file(tracker: Any, world: Any) -> None:
    orders = b"order_id,amount,currency\n1,5.00,EUR\n2,6.00,EUR\n"
    first = upload(tracker, world.advertiser, orders).json()
    work(tracker, first["id"])
    tracker.ship()
    file = (
        b"order_id,refund,status,reason_code,reason\n"
        b"1,2.00,,returned,too small\n"
        b"2,,declined,fraud,\n"
        b"9,1.00,,,\n"
        b"8,,approved,,\n"
        b"1,99.00,,,\n"
        b"2,,,other,\n"
    )
    second = upload(tracker, world.advertiser, file).json()
    work(tracker, second["id"])
    rows = sorted(tracker.rows(OrderUploadRow), key=lambda row: (row.upload_id, row.row))
    told = [(row.status, row.rule) for row in rows if row.upload_id == second["id"]]
    assert told == [
        ("accepted", ""),
        ("accepted", ""),
        ("invalid", "order_unknown"),
        ("invalid", "order_unknown"),
        ("invalid", "refund_exceeds_order"),
        ("invalid", "without_change"),
    ]
    tracker.ship()
    found = [
        (row.kind, row.amount_minor, row.reason_code) for row in tracker.rows(ConversionChange)
    ]
    assert found == [("refund", 200, "returned"), ("decline", 0, "fraud")]


def test_uploads_are_their_party_s_own(tracker: Any, world: Any) -> None:
    job = upload(tracker, world.advertiser, b"order_id\n1\n").json()["id"]
    for path in (job, f"{job}/rows", f"{job}/result.csv"):
        assert get(tracker, world.twin_advertiser, path).status_code == 404
        assert get(tracker, world.publisher, path).status_code == 403
        assert get(tracker, world.manager, path).status_code == 200
    listed = tracker.http.get(PATH, headers={"authorization": f"Bearer {world.twin_advertiser}"})
    assert listed.json() == {"data": [], "next_before": None}
    assert upload(tracker, world.publisher, b"order_id\n1\n").status_code == 403
    other = upload(tracker, world.advertiser, b"order_id\n1\n", "?program=other")
    assert other.status_code == 404
    assert upload(tracker, world.manager, b"order_id\n1\n").status_code == 400


def test_multipart_is_taken_too(tracker: Any, world: Any) -> None:
    answer = tracker.http.post(
        PATH,
        files={"file": ("März.csv", b"order_id\n1\n", "text/csv")},
        headers={"authorization": f"Bearer {world.advertiser}"},
    )
    assert (answer.status_code, answer.json()["file_name"]) == (202, "März.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_and_delimiters(encoding: str, delimiter: str) -> None:
    text = f"order_id{delimiter}coupon\r\n1{delimiter}Grüße\r\n"
    found = order_files.read(text.encode(encoding), READING)
    assert found.rows == [(2, {"order_id": "1", "coupon": "Grüße"})]


def test_cells_of_a_workbook() -> None:
    content = workbook(
        ["Order number", "amount", "order date", "test", "coupon"],
        [1001, 19.9, datetime.fromisoformat("2026-03-01T12:30:00"), True, "=1+1"],
        [],
        ["A-2", 5, "2026-03-01T00:00:00Z", False, None],
    )
    found = order_files.read(
        content, Reading(zone="Europe/Berlin", rows_max=100, decoded_bytes_max=10**7)
    )
    assert found.format == "xlsx"
    assert found.rows == [
        (
            2,
            {
                "order_id": "1001",
                "amount": "19.9",
                "occurred_at": "2026-03-01T11:30:00.000Z",
                "test": "1",
            },
        ),
        (
            4,
            {
                "order_id": "A-2",
                "amount": "5",
                "occurred_at": "2026-03-01T00:00:00Z",
                "test": "0",
            },
        ),
    ]


def bomb(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b" " * size)
    return file.getvalue()


def with_entities() -> bytes:
    file = io.BytesIO(workbook(["order_id"], ["1"]))
    out = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w") as target:
        for part in source.infolist():
            content = source.read(part)
            if part.filename == "xl/workbook.xml":
                content = b'<!DOCTYPE x [<!ENTITY a "b">]>' + content
            target.writestr(part, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"order_id\n", "empty"),
        (b"amount\n1\n", "header"),
        (b"order_id,orderid\n1,2\n", "repeated"),
        (b'order_id\n"1\n', "csv"),
        (b"order_id\n1\0\n", "encoding"),
        (b"\x89PNG\r\n\x1a\n\0\0", "encoding"),
        (b"PK\x03\x04 no archive", "xlsx"),
        (bomb(10), "xlsx"),
        (with_entities(), "xlsx"),
        (b"x," * 300, "columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_cannot_be_read_say_why(content: bytes, rule: str) -> None:
    with pytest.raises(AppError) as refused:
        order_files.read(content, READING)
    assert [one["rule"] for one in refused.value.facts["errors"]] == [rule]


def test_limits_of_a_file(sqlite_engine: Any, world: Any, serve: Any) -> None:
    tracker = serve(
        sqlite_engine, upload_rows_max=2, upload_bytes_max=1024, upload_decoded_bytes_max=10**6
    )
    many = upload(tracker, world.advertiser, b"order_id\n1\n2\n3\n")
    assert (many.status_code, many.json()["code"]) == (413, "too_many_file_rows")
    large = upload(tracker, world.advertiser, b"order_id\n" + b"1" * 2000)
    assert (large.status_code, large.json()["limit"]) == (413, "upload_bytes_max")
    packed = upload(tracker, world.advertiser, bomb(2 * 10**5)[:1024])
    assert packed.status_code == 400
    with pytest.raises(AppError) as refused:
        order_files.read(bomb(10**6), Reading(rows_max=1, decoded_bytes_max=10**5))
    assert refused.value.facts["limit"] == "upload_decoded_bytes_max"
    assert tracker.rows(OrderUpload) == []


def test_the_runner_finds_what_waits(tracker: Any, world: Any) -> None:
    runners: list[upload_work.Runner] = []

    async def start() -> None:
        runners.append(upload_work.Runner(tracker.node))
        runners[0].start()

    job = upload(tracker, world.advertiser, b"order_id\n1\n").json()["id"]
    tracker.run(start)
    deadline = clock.now().timestamp() + 20
    while get(tracker, world.advertiser, job).json()["status"] != "done":
        assert clock.now().timestamp() < deadline
    tracker.run(runners[0].close)


def test_attacks_in_a_file_are_rows_like_others(
    tracker: Any, world: Any, shared_data: Path
) -> None:
    told = [
        line
        for name in ("money", "sqli", "unicode", "xss")
        for path in sorted((shared_data / "attacks" / name).rglob("*.txt"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[:300]
        if line.strip()
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["order_id", "amount", "currency", "coupon"])
    writer.writerows([f"{at}", line, "EUR", line] for at, line in enumerate(told))
    content = text.getvalue().replace("\0", " ").encode()
    taken = upload(tracker, world.advertiser, content)
    assert taken.status_code == 202, taken.text
    work(tracker, taken.json()["id"])
    done = get(tracker, world.advertiser, taken.json()["id"]).json()
    assert done["status"] == "done"
    assert done["accepted"] + done["invalid"] == done["rows_total"] > 100
