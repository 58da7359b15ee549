"""Files of orders on the console: sent, watched, downloaded; another party sees nothing."""

from typing import Any

from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel.clock import now
from kernel.database import reading, unit_of_work
from tests.console.world import Browser, World
from tracker import uploads
from tracker.models import OrderUpload, OrderUploadRow

FILE = b"order_id;amount;currency;note\n1;1,50;EUR;x\n2;no;EUR;\n"


def send(browser: Browser, content: bytes, **fields: str) -> Any:
    data = {"csrf_token": browser.token("/uploads"), "program": "", "decimal": ",", **fields}
    files = {"file": ("march.csv", content, "text/csv")}
    return browser.client.post("/uploads", data=data, files=files)


def only(engine: Engine) -> OrderUpload:
    with reading(engine) as session:
        return session.exec(select(OrderUpload)).one()


def finish(engine: Engine, upload: OrderUpload) -> None:
    told = [
        OrderUploadRow(upload_id=upload.id, row=2, status="accepted", order_id="1"),
        OrderUploadRow(
            upload_id=upload.id,
            row=3,
            status="invalid",
            order_id="=2",
            field="amount",
            rule="amount",
            message="amount is no number",
        ),
    ]
    with unit_of_work(engine) as session:
        uploads.note(session, upload.id, told, now=now())


def test_a_file_is_sent_watched_and_downloaded(
    browser: Browser, world: World, sqlite_engine: Engine
) -> None:
    browser.sign_in("advertiser")
    answer = send(browser, FILE, program=world.program.id)
    assert answer.status_code == 303, answer.text
    upload = only(sqlite_engine)
    assert answer.headers["location"] == f"/uploads/{upload.id}?done=uploaded"
    assert uploads.unpack(upload.content)[0] == (
        2,
        {"order_id": "1", "amount": "1.50", "currency": "EUR"},
    )
    page = browser.open(f"/uploads/{upload.id}")
    assert "march.csv" in page.text
    assert "<progress" in page.text
    assert page.headers["refresh"] == f"3; url=/uploads/{upload.id}"
    finish(sqlite_engine, upload)
    page = browser.open(f"/uploads/{upload.id}")
    assert "refresh" not in page.headers
    assert "amount is no number" in page.text
    assert "Columns that were not used: note" in page.text
    result = browser.open(f"/uploads/{upload.id}/result.csv")
    assert "'=2" in result.text
    assert "march.csv" in browser.open("/uploads").text


def test_a_bad_file_is_refused_on_the_same_page(
    browser: Browser, world: World, sqlite_engine: Engine
) -> None:
    browser.sign_in("advertiser")
    refused = send(browser, b"amount\n1\n", program=world.program.id)
    assert refused.status_code == 400
    assert "order_id" in refused.text
    forged = send(browser, FILE, program=world.program.id, csrf_token="x")
    assert forged.status_code == 403
    with reading(sqlite_engine) as session:
        assert session.exec(select(OrderUpload)).all() == []


def test_files_are_not_for_publishers(
    browser: Browser, world: World, sqlite_engine: Engine
) -> None:
    browser.sign_in("advertiser")
    send(browser, FILE, program=world.program.id)
    upload = only(sqlite_engine)
    browser.client.cookies.clear()
    browser.sign_in("publisher")
    for path in ("/uploads", f"/uploads/{upload.id}", f"/uploads/{upload.id}/result.csv"):
        assert browser.open(path).status_code == 403
