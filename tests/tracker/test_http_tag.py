"""The tag over HTTP: what is served, which pages are believed, what is refused."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine

import tracker.http_tag
from kernel import clock
from kernel.database import unit_of_work
from network import programs
from network.models import TagOrders
from tests.tracker.conftest import BROWSER
from tracker import attribution, intake, recording, restatements
from tracker.customers import customer_keys
from tracker.events import Order, OrderReported
from tracker.journal_reader import read_batch
from tracker.models import Arrival, Attribution, Click, Conversion, ConversionChange, IntakeRefusal

SOURCE = Path(tracker.http_tag.__file__).with_name("tag.js")
ORIGIN = "https://www.shop.test"
ORDER = {
    "program": "shop",
    "order_id": "A-1",
    "event": "sale",
    "amount": "12.50",
    "currency": "EUR",
}


def send(tracker: Any, path: str, body: Any, **headers: str) -> Any:
    sent = {"origin": ORIGIN, "content-type": "text/plain;charset=UTF-8", "user-agent": BROWSER}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return tracker.http.post(path, content=content, headers=sent)


def visit(tracker: Any, changes: dict[str, Any] | None = None, **headers: str) -> Any:
    body = {"program": "shop", "publisher": "blog", "page": f"{ORIGIN}/p/1"} | (changes or {})
    return send(tracker, "/tag/click", body, **headers)


def order(tracker: Any, changes: dict[str, Any] | None = None, **headers: str) -> Any:
    return send(tracker, "/tag/conversion", ORDER | (changes or {}), **headers)


def believe_browsers(engine: Engine, program_id: str, mode: TagOrders) -> None:
    with unit_of_work(engine) as session:
        program = programs.get(session, program_id)
        programs.set_tag_orders(session, program, tag_orders=mode, actor="t", now=clock.now())


@pytest.fixture
def believing(tracker: Any, world: Any) -> Any:
    """A tracker whose program `shop` takes orders from browsers."""
    believe_browsers(tracker.engine, world.shop_id, TagOrders.PENDING)
    assert tracker.run(tracker.node.refresh)
    return tracker


def refused(code: str) -> float:
    return REGISTRY.get_sample_value("tallystick_tag_refused_total", {"code": code}) or 0


def code_of(answer: Any) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["code"])


def fields_of(answer: Any) -> list[str]:
    assert answer.status_code == 400, answer.text
    return [problem["field"] for problem in answer.json()["errors"]]


# The script ----------------------------------------------------------------------------------


def test_the_tag_is_small_and_needs_nothing_else() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)

    assert len(gzip.compress(SOURCE.read_bytes(), mtime=0)) <= 3072
    assert "//" not in code.replace("'https:'", "")
    for word in ("eval", "Function(", "innerHTML", "document.write", "importScripts", "setTimeout"):
        assert word not in code
    # Nothing that came after ES5, apart from objects that are looked for before they are used.
    newer = r"=>|\b(?:let|const|class|async|await|yield|import|export)\b|`|\.\.\.|\?\.|\?\?|\*\*"
    assert re.findall(newer, code) == []
    assert re.findall(r"catch\s*{", code) == []


def test_the_tag_is_cached_and_asked_for_again(tracker: Any) -> None:
    plain = tracker.http.get("/tag.js", headers={"accept-encoding": "identity"})
    packed = tracker.http.get("/tag.js", headers={"accept-encoding": "br, gzip"})

    assert plain.content == packed.content == SOURCE.read_bytes()
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) <= 3072
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert plain.headers["cache-control"] == "public, max-age=86400, must-revalidate"
    assert plain.headers["vary"] == "Accept-Encoding"
    assert plain.headers["access-control-allow-origin"] == "*"
    assert plain.headers["etag"] != packed.headers["etag"]
    for known in (packed.headers["etag"], f'"other", W/{packed.headers["etag"]}', "*"):
        same = tracker.http.get(
            "/tag.js", headers={"accept-encoding": "gzip", "if-none-match": known}
        )
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == packed.headers["etag"]
    other = tracker.http.get("/tag.js", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


# Visits --------------------------------------------------------------------------------------


def test_a_visit_is_a_click_of_its_publisher(tracker: Any, world: Any) -> None:
    answer = visit(
        tracker,
        {"s1": "a b", "s5": "é", "referrer": "https://blog.test/post"},
        accept_language="de",
    )

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    told = answer.json()
    assert told["reason"] == ""
    facts = tracker.node.signer.read(told["click_id"])
    assert (facts.program_number, facts.publisher_number) == (world.shop_number, world.blog_number)
    assert facts.billable
    assert tracker.ship().clicks == 1
    (row,) = tracker.rows(Click)
    assert (row.id, row.at) == (told["click_id"], facts.at)
    assert row.landing_url == f"{ORIGIN}/p/1"
    assert row.sub_ids == {"s1": "a b", "s5": "é"}
    assert row.parameters == {"s1": "a b", "s5": "é", "ts_note": "tag"}
    assert (row.referrer, row.accept_language) == ("https://blog.test/post", "de")
    assert (row.address, row.country, row.agent_class) == ("91.0.0.0/24", "DE", "browser")
    # The request was the tag's own: what its headers say of how it was made is not the visit's.
    assert (row.sec_fetch_dest, row.sec_fetch_mode) == (None, None)


def test_a_visit_in_a_frame_says_so(tracker: Any) -> None:
    for framed in ("1", "0"):
        assert visit(tracker, {"framed": framed}).json()["reason"] == ""
    tracker.ship()
    rows = sorted(tracker.rows(Click), key=lambda row: row.at)
    assert [row.sec_fetch_dest for row in rows] == ["iframe", None]


@pytest.mark.parametrize(
    ("changes", "headers", "reason"),
    [
        ({"publisher": "stranger"}, {}, "not_a_member"),
        ({"cons": "0"}, {}, "no_consent"),
        ({}, {"sec_purpose": "prefetch;prerender"}, "prefetch"),
    ],
)
def test_a_visit_that_cannot_earn_is_recorded_and_gets_no_id(
    tracker: Any, changes: dict[str, str], headers: dict[str, str], reason: str
) -> None:
    answer = visit(tracker, changes, **headers)

    assert answer.json() == {"click_id": None, "reason": reason}
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert row.unbillable_reason == reason
    assert tracker.node.signer.read(row.id).billable is False


def test_a_paused_program_gives_no_id(tracker: Any) -> None:
    answer = visit(tracker, {"program": "paused", "page": None}, origin="https://paused.test")

    assert answer.json() == {"click_id": None, "reason": "paused"}


@pytest.mark.parametrize("headers", [{"sec_gpc": "1"}, {}])
def test_without_consent_nothing_about_the_person_is_kept(
    tracker: Any, headers: dict[str, str]
) -> None:
    answer = visit(tracker, {} if headers else {"cons": "0"}, **headers)

    assert answer.json()["click_id"] is None
    directory = tracker.settings.data_dir / "journal" / "1"
    raw = read_batch(directory, None, records_max=9, bytes_max=9999).records[0].payload
    assert b"Mozilla" not in raw
    assert b"91.0.0" not in raw
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert (row.address, row.visitor_key, row.user_agent, row.country) == ("", "", "", None)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.test",
        "https://shop.test.evil.test",
        "https://evilshop.test",
        "https://shop.test@evil.test",
        "https://shop.test/",
        "https://shop.test, https://evil.test",
        "file://shop.test",
        "HTTPS://SHOP.TEST",
    ],
)
@pytest.mark.parametrize("path", ["/tag/click", "/tag/conversion"])
def test_other_pages_are_not_believed(believing: Any, origin: str, path: str) -> None:
    before = refused("foreign_origin")
    body = ORDER if path == "/tag/conversion" else {"program": "shop", "publisher": "blog"}
    answer = send(believing, path, body, origin=origin)
    asked = believing.http.options(path, headers={"origin": origin})

    for one in (answer, asked):
        assert one.status_code == 403
        assert code_of(one) == "foreign_origin"
        assert one.headers["vary"] == "Origin"
        assert "access-control-allow-origin" not in one.headers
    assert refused("foreign_origin") == before + 2
    assert not believing.ship()


def test_the_page_of_another_program_is_not_believed(tracker: Any) -> None:
    answer = visit(tracker, origin="https://other.test")

    assert (answer.status_code, code_of(answer)) == (403, "foreign_origin")
    # Its own page may read why.
    assert answer.headers["access-control-allow-origin"] == "https://other.test"
    assert not tracker.ship()


@pytest.mark.parametrize("path", ["/tag/click", "/tag/conversion"])
def test_a_preflight_names_what_is_allowed(tracker: Any, path: str) -> None:
    asked = {
        "origin": "http://shop.test:8443",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    answer = tracker.http.options(path, headers=asked)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "http://shop.test:8443"
    assert answer.headers["access-control-allow-methods"] == "POST"
    assert answer.headers["access-control-allow-headers"] == "Content-Type"
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"publisher": ""}, ["publisher"]),
        ({"program": None, "publisher": 5}, ["program", "publisher"]),
        ({"page": "javascript:alert(1)"}, ["page"]),
        ({"page": "https://shop.test\\@evil.test/"}, ["page"]),
        ({"page": "https://shop.test/\r\nSet-Cookie: a=b"}, ["page"]),
        ({"s1": {"a": 1}}, ["s1"]),
        ({"cons": "yes"}, ["cons"]),
        ({"framed": "yes"}, ["framed"]),
        ({"click_id": "x"}, ["click_id"]),
        ({"referrer": 7}, ["referrer"]),
    ],
)
def test_a_malformed_visit_names_its_field(
    tracker: Any, changes: dict[str, Any], fields: list[str]
) -> None:
    assert fields_of(visit(tracker, changes)) == fields
    assert not tracker.ship()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"program": "none"}, "program"), ({"publisher": "none"}, "publisher")],
)
def test_an_unknown_name_is_a_404(tracker: Any, changes: dict[str, str], kind: str) -> None:
    answer = visit(tracker, changes)

    assert (answer.status_code, code_of(answer)) == (404, "not_found")
    assert answer.json()["kind"] == kind
    assert not tracker.ship()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"\xff", b'{"a": "\\u0000"}', b"[" * 100_000, b'{"a":1,"a":2}'],
)
@pytest.mark.parametrize("path", ["/tag/click", "/tag/conversion"])
def test_what_is_no_object_is_refused(believing: Any, path: str, body: bytes) -> None:
    answer = send(believing, path, body, content_type="application/json")

    assert answer.status_code in {400, 413}
    assert not believing.ship()


@pytest.mark.parametrize(
    "kind", ["", "text/html", "application/x-www-form-urlencoded", "multipart/form-data", "text"]
)
def test_other_media_types_are_refused(tracker: Any, kind: str) -> None:
    assert fields_of(visit(tracker, content_type=kind)) == ["body"]
    assert not tracker.ship()


def test_a_large_body_is_refused_before_it_is_read(tracker: Any) -> None:
    limit = tracker.settings.tag_body_bytes_max
    answer = visit(tracker, {"s1": "x" * limit})

    assert (answer.status_code, code_of(answer)) == (413, "too_large")
    assert answer.json()["limit_bytes"] == limit
    assert not tracker.ship()


def test_hostile_sub_ids_are_text_and_nothing_else(tracker: Any) -> None:
    hostile = {
        "s1": "a\r\nSet-Cookie: x=1",
        "s2": "x&s3=other&ts_note=y",
        "s4": "<script>alert(1)</script>",
        "s5": "y" * 300,
    }
    answer = visit(tracker, hostile)

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert row.sub_ids == {
        "s1": "a\ufffd\ufffdSet-Cookie: x=1",
        "s2": "x&s3=other&ts_note=y",
        "s4": "<script>alert(1)</script>",
        "s5": "y" * 255 + "…",
    }
    assert row.parameters["ts_note"] == "tag"


def test_a_page_on_another_domain_is_not_taken_over(tracker: Any) -> None:
    assert visit(tracker, {"page": "https://evil.test/x"}).json()["reason"] == ""
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert row.landing_url == "https://shop.test/start?ref=1#top"
    assert row.parameters == {"ts_note": "tag foreign_url"}


@pytest.mark.usefixtures("world")
def test_an_address_has_a_limit_of_its_own(sqlite_engine: Engine, serve: Any) -> None:
    tracker = serve(sqlite_engine, tag_requests_per_minute_max=3)
    answers = [visit(tracker) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert code_of(answers[-1]) == "too_many_requests"
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].headers["access-control-allow-origin"] == ORIGIN
    assert tracker.ship().clicks == 3


@pytest.mark.usefixtures("world")
def test_a_journal_that_cannot_record_gives_no_id(tracker: Any) -> None:
    tracker.run(tracker.node.journal.close)
    answer = visit(tracker)

    assert answer.status_code == 503
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_visits_and_orders_go_on_without_a_database(
    believing: Any, world: Any, serve: Any, dead_engine: Engine
) -> None:
    # The routing table that the node saved, and the journal, are all that is needed.
    believing.run(believing.node.journal.close)
    alone = serve(dead_engine)

    click_id = visit(alone).json()["click_id"]
    assert alone.node.signer.read(click_id).program_number == world.shop_number
    assert order(alone, {"clicks": click_id}).status_code == 202


# Orders --------------------------------------------------------------------------------------


def test_an_order_carries_the_clicks_that_the_page_remembers(believing: Any, world: Any) -> None:
    ids = [visit(believing).json()["click_id"] for _ in range(3)]
    answer = order(believing, {"clicks": "~".join(ids)})

    assert (answer.status_code, answer.json()) == (202, {"accepted": True})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    believing.ship()
    (row,) = believing.rows(Conversion)
    assert (row.program_id, row.order_id, row.event) == (world.shop_id, "A-1", "sale")
    assert (row.amount_minor, row.currency, row.channel) == (1250, "EUR", "tag")
    assert (row.click_id, row.click_ids) == (ids[2], ids[:2])


def test_a_click_that_is_named_twice_counts_once_at_its_last_place(believing: Any) -> None:
    order(believing, {"clicks": "a~b~a~~"})
    believing.ship()
    (row,) = believing.rows(Conversion)
    assert (row.click_id, row.click_ids) == ("a", ["b"])


def test_global_privacy_control_takes_the_clicks_away(believing: Any) -> None:
    click_id = visit(believing).json()["click_id"]
    order(believing, {"clicks": click_id}, sec_gpc="1")
    believing.ship()
    (row,) = believing.rows(Conversion)
    assert (row.click_id, row.click_ids) == (None, [])


def test_a_program_takes_no_orders_from_browsers_unless_it_says_so(tracker: Any) -> None:
    before = refused("tag_orders_refused")
    answer = order(tracker)

    assert (answer.status_code, code_of(answer)) == (422, "tag_orders_refused")
    assert refused("tag_orders_refused") == before + 1
    assert not tracker.ship()


@pytest.mark.parametrize(
    "name", ["status", "occurred_at", "publisher", "token", "click_id", "click_ids", "imported"]
)
def test_a_browser_may_not_say_everything(believing: Any, name: str) -> None:
    assert fields_of(order(believing, {name: "approved"})) == [name]
    assert not believing.ship()


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"amount": "12.505"}, ["amount"]),
        ({"amount": 12.5}, ["amount"]),
        ({"amount": "-1"}, ["amount"]),
        ({"currency": "USD"}, ["currency"]),
        ({"order_id": ""}, ["order_id"]),
        ({"order_id": "a\nb"}, ["order_id"]),
        ({"clicks": "~".join(f"c{number}" for number in range(51))}, ["clicks"]),
        ({"clicks": "x" * 256}, ["clicks"]),
        ({"clicks": ["a"]}, ["clicks"]),
    ],
)
def test_a_malformed_order_names_its_field(
    believing: Any, changes: dict[str, Any], fields: list[str]
) -> None:
    assert fields_of(order(believing, changes)) == fields
    assert not believing.ship()


def test_the_answer_tells_nobody_what_was_reported_before(believing: Any, world: Any) -> None:
    reported = believing.http.post(
        "/postback",
        data={"token": world.token, "order_id": "A-1", "amount": "99.00", "currency": "EUR"},
    )
    assert reported.status_code == 202
    fresh = order(believing, {"order_id": "A-2"})
    guess = order(believing)
    same = order(believing, {"order_id": "A-2"})

    assert [one.status_code for one in (fresh, guess, same)] == [202, 202, 202]
    assert fresh.content == guess.content == same.content
    believing.ship()
    rows = {row.order_id: row for row in believing.rows(Conversion)}
    assert {name: row.amount_minor for name, row in rows.items()} == {"A-1": 9900, "A-2": 1250}
    assert (rows["A-1"].channel, rows["A-2"].channel) == ("postback", "tag")
    # The server's word stands, and its advertiser sees that something was said against it.
    assert believing.rows(IntakeRefusal) == []
    believing.run(believing.node.write_arrivals)
    believing.ship()
    arrived = {(row.conversion_id, row.channel, row.result) for row in believing.rows(Arrival)}
    assert arrived == {
        (rows["A-1"].id, "postback", "accepted"),
        (rows["A-1"].id, "tag", "ignored"),
        (rows["A-2"].id, "tag", "accepted"),
        (rows["A-2"].id, "tag", "duplicate"),
    }


def test_the_same_order_by_tag_and_by_server_is_one_conversion(believing: Any, world: Any) -> None:
    click_id = visit(believing).json()["click_id"]
    assert order(believing, {"clicks": click_id}).status_code == 202
    sent = {key: value for key, value in ORDER.items() if key != "program"}
    again = believing.http.post(
        "/postback", data={**sent, "token": world.token, "click_id": click_id}
    )

    assert (again.status_code, again.json()["duplicate"]) == (202, True)
    believing.ship()
    assert len(believing.rows(Conversion)) == 1


def by_server(tracker: Any, world: Any, **changes: str) -> Any:
    sent = {key: value for key, value in ORDER.items() if key != "program"}
    return tracker.http.post("/postback", data={**sent, "token": world.token, **changes})


def standing(tracker: Any) -> list[Conversion]:
    """Conversions whose place no other has taken."""
    ended = {row.conversion_id for row in tracker.rows(ConversionChange)}
    return [row for row in tracker.rows(Conversion) if row.id not in ended]


def attributed(tracker: Any, conversion_id: str) -> Any:
    def by(ids: Any) -> None:
        for one in ids:
            attribution.attribute(
                session,
                one,
                signer=tracker.node.signer,
                keys=customer_keys(tracker.node.keys),
                now=clock.now(),
            )

    with unit_of_work(tracker.engine) as session:
        ids = [row.id for row in sorted(tracker.rows(Conversion), key=lambda row: row.seq or 0)]
        restatements.attribute(session, ids, by=by, now=clock.now())
        return session.get_one(Attribution, conversion_id).publisher_id


@pytest.mark.parametrize("shipped_between", [True, False])
def test_a_server_s_word_takes_the_place_of_a_guess(
    believing: Any, world: Any, *, shipped_between: bool
) -> None:
    guess = visit(believing).json()["click_id"]
    assert order(believing, {"amount": "9999.00", "clicks": guess}).status_code == 202
    if shipped_between:
        believing.ship()
    reported = by_server(believing, world, country="DE")

    assert (reported.status_code, reported.json()["duplicate"]) == (202, False)
    assert by_server(believing, world, country="DE").json() == {
        **reported.json(),
        "duplicate": True,
    }
    # From now on it is the server's order: another content is a conflict, a browser's is nothing.
    assert by_server(believing, world, amount="1.00").status_code == 409
    assert order(believing, {"amount": "5.00", "clicks": guess}).status_code == 202
    believing.ship()
    (row,) = standing(believing)
    assert row.id == reported.json()["conversion_id"]
    assert (row.channel, row.amount_minor, row.country) == ("postback", 1250, "DE")
    assert row.occurred_at == row.received_at
    # Who guessed the number of the order brought nobody.
    assert attributed(believing, row.id) is None
    assert believing.rows(IntakeRefusal) == []


def test_a_server_that_knows_no_click_believes_a_page_that_knew_the_amount(
    believing: Any, world: Any
) -> None:
    click_id = visit(believing).json()["click_id"]
    order(believing, {"clicks": click_id})
    by_server(believing, world, country="DE", customer="new")
    believing.ship()

    (row,) = standing(believing)
    assert (row.channel, row.customer, row.click_id) == ("postback", "new", None)
    assert attributed(believing, row.id) == world.blog_id


def test_a_browser_that_is_shipped_later_changes_nothing(believing: Any, world: Any) -> None:
    # Two nodes that know nothing of one another: the browser's report is the later in the journal.
    reported = by_server(believing, world)
    believing.ship()
    with unit_of_work(believing.engine) as session:
        program = believing.node.routing.table.programs["shop"]
        late = intake.report_of(
            believing.node,
            program,
            Order(order_id="A-1", event="sale", currency="EUR", amount_minor=5),
            channel="tag",
            now=clock.now(),
        )
        recorded = recording.record(session, [late], now=clock.now())
    assert (recorded.added, recorded.repeated) == (0, 1)
    (row,) = standing(believing)
    assert row.id == reported.json()["conversion_id"]


def test_two_nodes_come_to_the_same_end(believing: Any, world: Any) -> None:
    # The server's report was acknowledged by a node that had not heard of the browser's.
    program = believing.node.routing.table.programs["shop"]

    def report(amount_minor: int, channel: str) -> OrderReported:
        said = Order(order_id="A-9", event="sale", currency="EUR", amount_minor=amount_minor)
        return intake.report_of(believing.node, program, said, channel=channel, now=clock.now())

    told, later = report(10, "postback"), report(99, "tag")
    with unit_of_work(believing.engine) as session:
        recording.record(session, [later, told], now=clock.now())
    (row,) = standing(believing)
    assert (row.id, row.amount_minor, row.relation) == (told.conversion_id, 10, "edit")
    assert row.program_id == world.shop_id
