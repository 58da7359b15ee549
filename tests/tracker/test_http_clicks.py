"""The click as a visitor's browser meets it."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine

from kernel.database import unit_of_work
from network import programs
from network.models import ProgramStatus
from tracker.click_headers import client_address, is_prefetch
from tracker.click_ids import FLAG_NOT_BILLABLE
from tracker.clicks import NOTE_PARAMETER, PARAMETERS_MAX
from tracker.journal_reader import read_batch
from tracker.models import Click, IntakeRefusal


def click_id_in(location: str, parameter: str = "ts_click") -> str | None:
    return parse_qs(urlsplit(location).query).get(parameter, [None])[0]


def only_click(tracker: Any) -> Click:
    tracker.ship()
    rows = tracker.rows(Click)
    assert len(rows) == 1
    click: Click = rows[0]
    return click


def test_click_redirects_with_an_id_that_says_what_it_is(tracker: Any, world: Any) -> None:
    answer = tracker.get("/c/shop/blog?s1=a&s2=b+c", referer="https://blog.test/post")

    assert answer.status == 302
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-robots-tag"] == "noindex"
    assert answer.headers["referrer-policy"] == "strict-origin-when-cross-origin"
    click_id = click_id_in(answer.location)
    assert click_id is not None
    assert answer.location == f"https://shop.test/start?ref=1&ts_click={click_id}#top"
    facts = tracker.node.signer.read(click_id)
    assert (facts.program_number, facts.publisher_number) == (world.shop_number, world.blog_number)
    assert facts.billable
    assert not facts.imported
    row = only_click(tracker)
    assert (row.id, row.at) == (click_id, facts.at)
    assert (row.program_id, row.publisher_id) == (world.shop_id, world.blog_id)
    assert row.unbillable_reason == ""
    assert row.landing_url == "https://shop.test/start?ref=1#top"
    assert row.sub_ids == {"s1": "a", "s2": "b c"}
    assert row.parameters == {"s1": "a", "s2": "b c"}
    assert row.address == "91.0.0.0/24"
    assert len(row.visitor_key) == 32
    assert row.agent_class == "browser"
    assert row.referrer == "https://blog.test/post"
    assert (row.country, row.country_source, row.is_hosting) == ("DE", "registry", False)
    assert (row.imported, row.duplicates) == (False, 0)


def test_macros_are_filled_and_encoded_once(tracker: Any) -> None:
    answer = tracker.get("/c/other/blog?subId1=" + quote("a/b&c=%"))
    click_id = click_id_in(answer.location, "cid")
    assert answer.location == f"https://other.test/blog?cid={click_id}&sub=a%2Fb%26c%3D%25"
    assert "ts_click" not in answer.location


@pytest.mark.parametrize(
    ("query", "sub_ids"),
    [
        ("clickref=1&clickref2=2&clickref6=6", {"s1": "1", "s2": "2", "s6": "6"}),
        ("subId1=1&subId2=2&subId3=3", {"s1": "1", "s2": "2", "s3": "3"}),
        ("subid1=1&subid4=4", {"s1": "1", "s4": "4"}),
        ("sid=x", {"s1": "x"}),
        ("u1=x", {"s1": "x"}),
        ("customid=x", {"s1": "x"}),
        ("aff_sub=1&aff_sub2=2&aff_sub5=5", {"s1": "1", "s2": "2", "s5": "5"}),
        ("pubref=x", {"s1": "x"}),
        ("s1=own&sid=theirs", {"s1": "own"}),
        ("s1=first&s1=second", {"s1": "first"}),
        ("s1=%E4%BD%A0%F0%9F%98%80", {"s1": "你😀"}),
        ("s1=%00%0a%ff", {"s1": "\ufffd\ufffd\ufffd"}),
        ("s1=" + "x" * 300, {"s1": "x" * 255 + "…"}),
        ("s1=&s2", {}),
    ],
)
def test_sub_ids_of_every_dialect(tracker: Any, query: str, sub_ids: dict[str, str]) -> None:
    assert tracker.get(f"/c/shop/blog?{query}").status == 302
    row = only_click(tracker)
    assert row.sub_ids == sub_ids
    assert set(row.parameters) >= {pair.split("=")[0] for pair in query.split("&")} - {""}


def test_parameters_are_bounded(tracker: Any) -> None:
    query = "&".join(f"p{number}={number}" for number in range(200))
    assert tracker.get(f"/c/shop/blog?{query}").status == 302
    assert len(only_click(tracker).parameters) == PARAMETERS_MAX


@pytest.mark.parametrize("name", ["url", "ued", "u", "murl", "destination"])
def test_deep_link_goes_where_it_says(tracker: Any, name: str) -> None:
    target = "https://www.shop.test/p/1?a=1&b=%20x#frag"
    answer = tracker.get(f"/c/shop/blog?{name}={quote(target, safe='')}")
    click_id = click_id_in(answer.location)
    assert answer.location == (f"https://www.shop.test/p/1?a=1&b=%20x&ts_click={click_id}#frag")
    assert only_click(tracker).landing_url == target


def test_foreign_deep_link_leads_to_the_programs_own_page_and_still_earns(tracker: Any) -> None:
    answer = tracker.get("/c/shop/blog?url=https%3A%2F%2Fevil.test%2F")
    assert answer.status == 302
    assert answer.location.startswith("https://shop.test/start?ref=1&ts_click=")
    row = only_click(tracker)
    assert row.parameters == {"url": "https://evil.test/", NOTE_PARAMETER: "foreign_url"}
    assert row.unbillable_reason == ""


def test_malformed_deep_link_is_a_problem_naming_url(tracker: Any) -> None:
    answer = tracker.get("/c/shop/blog?url=" + quote("https://evil.test\\@shop.test/", safe=""))
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert '"field": "url"' in answer.text
    assert not tracker.ship()
    assert tracker.rows(Click) == []


def test_an_old_click_id_in_a_copied_link_is_replaced(tracker: Any) -> None:
    target = quote("https://shop.test/?ts_click=old&a=1&ts%5Fclick=older", safe="")
    location = tracker.get(f"/c/shop/blog?url={target}").location
    assert location == f"https://shop.test/?a=1&ts_click={click_id_in(location)}"
    assert click_id_in(location) not in {"old", "older"}


@pytest.mark.parametrize(
    "path", ["/c/none/blog", "/c/shop/none", "/c/shop", "/c/", "/c/shop/blog/x"]
)
def test_unknown_link_is_a_page_in_the_visitors_language(tracker: Any, path: str) -> None:
    english = tracker.get(path, accept_language="fr, en;q=0.5")
    assert english.status == 404
    assert english.headers["content-type"] == "text/html; charset=utf-8"
    assert "This link leads nowhere" in english.text
    chinese = tracker.get(path, accept_language="zh-CN")
    assert '<html lang="zh-Hans">' in chinese.text
    assert "此链接无效" in chinese.text
    assert not tracker.ship()


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/c/shop/stranger", {}, "not_a_member"),
        ("/c/paused/blog", {}, "paused"),
        ("/c/shop/blog", {"sec_purpose": "prefetch;prerender"}, "prefetch"),
        ("/c/shop/blog", {"purpose": "prefetch"}, "prefetch"),
        ("/c/shop/blog", {"x_moz": "prefetch"}, "prefetch"),
        ("/c/shop/blog?cons=0", {}, "no_consent"),
        ("/c/shop/stranger?cons=0", {"sec_purpose": "prefetch"}, "no_consent"),
    ],
)
def test_clicks_that_cannot_earn_carry_no_id(
    tracker: Any, path: str, headers: dict[str, str], reason: str
) -> None:
    answer = tracker.get(path, **headers)
    assert answer.status == 302
    assert "ts_click" not in answer.location
    row = only_click(tracker)
    assert row.unbillable_reason == reason
    assert tracker.node.signer.read(row.id).billable is False


def test_a_head_request_is_no_visit(tracker: Any) -> None:
    answer = tracker.http.head("/c/shop/blog")
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://shop.test/start?ref=1#top"
    assert only_click(tracker).unbillable_reason == "head"


def test_without_consent_nothing_about_the_person_is_kept(tracker: Any) -> None:
    tracker.get("/c/shop/blog?cons=0&s1=x", referer="https://r.test/", accept_language="de")
    directory = tracker.settings.data_dir / "journal" / "1"
    raw = read_batch(directory, None, records_max=9, bytes_max=9999).records[0].payload
    assert b"Mozilla" not in raw
    assert b"91.0.0" not in raw
    row = only_click(tracker)
    assert (row.address, row.visitor_key, row.user_agent, row.agent_class) == ("", "", "", "")
    assert (row.referrer, row.accept_language, row.country) == ("", "", None)
    assert row.sub_ids == {"s1": "x"}


def test_consent_given_is_a_normal_click(tracker: Any) -> None:
    assert click_id_in(tracker.get("/c/shop/blog?cons=1").location) is not None


def test_other_methods_and_long_addresses_are_refused(tracker: Any) -> None:
    refused = tracker.http.post("/c/shop/blog")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    limit = tracker.settings.url_bytes_max
    stem = "/c/shop/blog?s1="
    assert tracker.get(stem + "x" * (limit - len(stem))).status == 302
    assert tracker.get(stem + "x" * (limit - len(stem) + 1)).status == 414
    assert tracker.ship().clicks == 1


@pytest.mark.usefixtures("world")
def test_a_full_journal_still_redirects_and_is_counted(sqlite_engine: Any, serve: Any) -> None:
    tracker = serve(
        sqlite_engine,
        journal_bytes_max=2**20,
        journal_segment_bytes_max=2**19,
        journal_record_bytes_max=2**16,
    )
    before = REGISTRY.get_sample_value("tallystick_clicks_untracked_total") or 0
    locations = [tracker.get("/c/shop/blog?s1=" + "x" * 8000).location for _ in range(150)]
    untracked = [one for one in locations if "ts_click" not in one]
    assert untracked
    assert set(untracked) == {"https://shop.test/start?ref=1#top"}
    after = REGISTRY.get_sample_value("tallystick_clicks_untracked_total")
    assert after == before + len(untracked)
    tracker.ship()
    assert {row.id for row in tracker.rows(Click)} == {
        click_id_in(one) for one in locations if one not in untracked
    }
    deadline = time.monotonic() + 20
    while "ts_click" not in tracker.get("/c/shop/blog").location:
        assert time.monotonic() < deadline, "full for good, although all of it is shipped"
        time.sleep(0.05)


def test_a_closed_journal_still_redirects(tracker: Any) -> None:
    assert tracker.http.portal is not None
    tracker.http.portal.call(tracker.node.journal.close)
    answer = tracker.get("/c/shop/blog")
    assert (answer.status, answer.location) == (302, "https://shop.test/start?ref=1#top")


def test_repeats_of_one_visitor_are_counted_across_batches(tracker: Any) -> None:
    for _ in range(3):
        tracker.get("/c/shop/blog")
    tracker.get("/c/shop/blog", sec_purpose="prefetch")
    tracker.ship()
    tracker.get("/c/shop/blog")
    tracker.get("/c/shop/blog", user_agent="Mozilla/5.0 (X11; Linux x86_64) Gecko/ Firefox/140.0")
    tracker.get("/c/other/blog")
    tracker.ship()
    rows = sorted(tracker.rows(Click), key=lambda row: (row.at, row.id))
    counts = [row.duplicates for row in rows if not row.unbillable_reason]
    assert sorted(counts) == [0, 0, 0, 1, 2, 3]


PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", "1.2.3.4", "198.51.100.7"),
        (PROXY, "1.2.3.4", "1.2.3.4"),
        (PROXY, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (PROXY, "6.6.6.6, 1.2.3.4, 10.0.0.1", "1.2.3.4"),
        (PROXY, "1.2.3.4:5678", "1.2.3.4"),
        (PROXY, "[2001:db8::1]:443", "2001:db8::1"),
        (PROXY, "2001:db8::1", "2001:db8::1"),
        (PROXY, "nonsense", PROXY),
        (PROXY, "1.2.3.4, nonsense", PROXY),
        (PROXY, "", PROXY),
    ],
)
def test_client_address(peer: str, forwarded: str, expected: str) -> None:
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    assert client_address(peer, headers, frozenset({PROXY})) == expected
    assert client_address("", headers, frozenset({PROXY})) == ""


def test_forwarding_headers_of_strangers_are_not_believed(tracker: Any) -> None:
    tracker.get("/c/shop/blog", x_forwarded_for="3.120.0.1")
    assert only_click(tracker).address == "91.0.0.0/24"


@pytest.mark.usefixtures("world")
def test_a_proxys_word_is_believed(sqlite_engine: Any, serve: Any) -> None:
    tracker = serve(sqlite_engine, peer="127.0.0.1")
    tracker.get("/c/shop/blog", x_forwarded_for="2a05:d014::1")
    row = only_click(tracker)
    assert (row.address, row.country, row.is_hosting) == ("2a05:d014::/48", "DE", True)


def test_prefetch_words() -> None:
    assert is_prefetch({"sec-purpose": "PREFETCH"})
    assert is_prefetch({"x-purpose": "preview"})
    assert not is_prefetch({})
    assert not is_prefetch({"user-agent": "prefetch"})


def test_pausing_reaches_the_tracker_within_its_refresh_time(tracker: Any) -> None:
    assert "ts_click" in tracker.get("/c/shop/blog").location
    with unit_of_work(tracker.engine) as session:
        program = programs.find(session, "shop")
        programs.set_status(
            session, program, status=ProgramStatus.PAUSED, actor="t", now=program.created_at
        )
    assert tracker.http.portal is not None
    assert tracker.http.portal.call(tracker.node.refresh) is True
    assert "ts_click" not in tracker.get("/c/shop/blog").location


@pytest.mark.usefixtures("world")
def test_a_node_without_database_starts_from_its_saved_table(
    sqlite_engine: Engine, serve: Any, dead_engine: Engine
) -> None:
    first = serve(sqlite_engine)
    assert first.get("/c/shop/blog").status == 302
    saved: Path = first.settings.data_dir / "routing.json"
    assert saved.stat().st_mode & 0o777 == 0o600
    second = serve(dead_engine)
    location = second.get("/c/shop/blog").location
    click_id = click_id_in(location)
    assert click_id is not None
    # Both journals lie on this node; the database is back when they are shipped.
    shipped = first.ship()
    assert (shipped.clicks, shipped.refused) == (2, 0)
    assert click_id in {row.id for row in first.rows(Click)}
    assert first.rows(IntakeRefusal) == []


def test_flag_says_not_billable() -> None:
    assert FLAG_NOT_BILLABLE == 2
