"""What links do beyond the plain one: short, signed, dead, previewed, and without consent."""

from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.database import unit_of_work
from kernel.settings import Settings
from network import programs, publishers
from network.access import Actor
from network.models import MembershipStatus, ProgramStatus, Role
from tests.tracker.test_consent import NO, OTHERS, VENDOR, YES
from tests.tracker.test_http_clicks import click_id_in, only_click
from tracker import links
from tracker.click_core import is_link
from tracker.deep_links import DeepLinkSigner
from tracker.journal_reader import read_batch
from tracker.models import Click, Link

MANAGER = Actor(id="usr_m", role=Role.MANAGER, party_id="", name="M")
PAGE = "https://www.shop.test/p/1?a=1#f"


def make_link(tracker: Any, *, refresh: bool = True, **values: str) -> Link:
    given = {"program": "shop", "publisher": "blog", **values}
    with unit_of_work(tracker.engine) as session:
        wanted = links.parse(given, sub_id_chars_max=256, is_short=True)
        draft = links.draft(session, MANAGER, wanted)
        [link] = links.create(
            session, [draft], actor=MANAGER, publisher_links_max=1000, now=clock.now()
        )
    assert isinstance(link, Link)
    if refresh:
        tracker.run(tracker.node.refresh)
    return link


def retire(tracker: Any, link: Link) -> None:
    with unit_of_work(tracker.engine) as session:
        links.retire(session, links.find(session, MANAGER, link.id), actor=MANAGER, now=clock.now())
    tracker.run(tracker.node.refresh)


def settle(tracker: Any, program: str = "shop", **changes: Any) -> None:
    with unit_of_work(tracker.engine) as session:
        found = programs.find(session, program)
        programs.set_tracking(session, found, actor="t", now=clock.now(), **changes)
    tracker.run(tracker.node.refresh)


def publisher_fallback(tracker: Any, world: Any, url: str) -> None:
    with unit_of_work(tracker.engine) as session:
        found = publishers.get(session, world.blog_id)
        publishers.set_fallback(session, found, fallback_url=url, actor="t", now=clock.now())
    tracker.run(tracker.node.refresh)


def journaled(tracker: Any) -> bytes:
    directory = tracker.settings.data_dir / "journal" / "1"
    records = read_batch(directory, None, records_max=9, bytes_max=99_999).records
    return b"".join(record.payload for record in records)


def test_a_short_link_answers_like_the_link_it_stands_for(tracker: Any) -> None:
    link = make_link(tracker, url=PAGE, s1="news", s3="top", name="Spring")
    assert len(link.code) == 8
    answer = tracker.get(f"/l/{link.code}", referer="https://blog.test/")
    click_id = click_id_in(answer.location)
    assert answer.status == 302
    assert answer.location == f"https://www.shop.test/p/1?a=1&ts_click={click_id}#f"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-robots-tag"] == "noindex"
    row = only_click(tracker)
    assert (row.id, row.link, row.unbillable_reason) == (click_id, link.code, "")
    assert row.landing_url == PAGE
    assert row.sub_ids == {"s1": "news", "s3": "top"}
    assert row.parameters == {"url": PAGE, "s1": "news", "s3": "top"}


def test_a_visitor_adds_to_a_short_link_and_changes_nothing_of_it(tracker: Any) -> None:
    link = make_link(tracker, url=PAGE, s1="news")
    other = quote("https://shop.test/other", safe="")
    answer = tracker.get(f"/l/{link.code}?url={other}&s1=mine&s2=two")
    assert answer.location.startswith("https://www.shop.test/p/1?a=1&ts_click=")
    assert only_click(tracker).sub_ids == {"s1": "news", "s2": "two"}


def test_a_short_link_to_the_landing_page(tracker: Any) -> None:
    link = make_link(tracker, code="spring-sale")
    answer = tracker.get("/l/spring-sale")
    assert answer.location.startswith("https://shop.test/start?ref=1&ts_click=")
    assert only_click(tracker).link == link.code == "spring-sale"


def test_consent_is_asked_of_short_links_too(tracker: Any) -> None:
    link = make_link(tracker, url=PAGE)
    assert tracker.get(f"/l/{link.code}?cons=0").location == PAGE
    row = only_click(tracker)
    assert (row.unbillable_reason, row.link) == ("no_consent", link.code)
    assert row.landing_url == "https://www.shop.test/p/1"


@pytest.mark.parametrize("path", ["/l/", "/l/nowhere", "/l/x/y", "/l/%00", "/l/%ff%fe", "/l/..%2f"])
def test_an_unknown_short_link_is_a_404_page(tracker: Any, path: str) -> None:
    answer = tracker.get(path)
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert answer.headers["x-robots-tag"] == "noindex"
    assert answer.headers["cache-control"] == "no-store"
    assert not tracker.ship()


def test_a_retired_link_sends_on_and_earns_nothing(tracker: Any) -> None:
    link = make_link(tracker, url=PAGE)
    retire(tracker, link)
    answer = tracker.get(f"/l/{link.code}")
    assert (answer.status, answer.location) == (302, PAGE)
    row = only_click(tracker)
    assert (row.unbillable_reason, row.link) == ("link_retired", link.code)


def test_what_is_remembered_of_links_ends_with_their_next_change(tracker: Any, world: Any) -> None:
    link = make_link(tracker, url=PAGE)

    def reasons() -> list[str]:
        """Of one more click by each link."""
        tracker.get(f"/l/{link.code}?s2=x")
        tracker.get("/c/shop/blog?s2=x")
        before = len(tracker.rows(Click))
        tracker.ship()
        return [row.unbillable_reason for row in tracker.rows(Click)][before:]

    assert reasons() == ["", ""]
    assert reasons() == ["", ""]
    retire(tracker, link)
    assert reasons() == ["link_retired", ""]
    settle(tracker, fallback_url="https://shop.test/over")
    assert tracker.get(f"/l/{link.code}?s2=x").location == "https://shop.test/over"
    publisher_fallback(tracker, world, "https://blog.test/gone")
    assert tracker.get(f"/l/{link.code}?s2=x").location == "https://blog.test/gone"
    assert tracker.get("/l/later?s2=x").status == 404
    make_link(tracker, code="later")
    assert tracker.get("/l/later?s2=x").status == 302


def test_a_qr_code_is_a_picture_that_may_be_kept(tracker: Any) -> None:
    link = make_link(tracker)
    svg = tracker.http.get(f"/l/{link.code}.svg")
    assert (svg.status_code, svg.headers["content-type"]) == (200, "image/svg+xml")
    assert svg.headers["cache-control"] == "public, max-age=86400"
    assert svg.text.startswith("<svg ")
    assert "<script" not in svg.text
    png = tracker.http.get(f"/l/{link.code}.png?scale=3")
    assert (png.status_code, png.headers["content-type"]) == (200, "image/png")
    assert png.content.startswith(b"\x89PNG")
    width = int.from_bytes(png.content[16:20], "big")
    assert width % 3 == 0
    assert (width // 3 - 17 - 8) % 4 == 0, "modules of a version, and four quiet ones on each side"
    assert not tracker.ship(), "a picture is no click"


@pytest.mark.parametrize("scale", ["0", "33", "-1", "1.5", "", "x", "9999999", "00008", "٣"])
def test_a_picture_has_its_bounds(tracker: Any, scale: str) -> None:
    link = make_link(tracker)
    answer = tracker.http.get(f"/l/{link.code}.png", params={"scale": scale})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "scale"


@pytest.mark.parametrize("path", ["/l/nowhere.svg", "/l/nowhere.png", "/l/.svg"])
def test_no_link_no_picture(tracker: Any, path: str) -> None:
    assert tracker.http.get(path).status_code == 404


def test_which_paths_are_links() -> None:
    assert is_link("/c/a/b")
    assert is_link("/l/a")
    assert not is_link("/l/a.svg")
    assert not is_link("/l/a.png")
    assert is_link("/c/a/b.svg")
    assert not is_link("/links")
    assert not is_link("/")


def signed(tracker: Any, **changes: str) -> str:
    facts = {"program": "shop", "publisher": "blog", "page": PAGE} | changes
    return DeepLinkSigner(tracker.node.keys).sign(**facts)


def test_a_signed_deep_link_is_followed(tracker: Any) -> None:
    settle(tracker, requires_signed_links=True)
    signature = signed(tracker)
    assert len(signature) == 22
    answer = tracker.get(f"/c/shop/blog?url={quote(PAGE, safe='')}&sig={signature}")
    assert answer.location.startswith("https://www.shop.test/p/1?a=1&ts_click=")
    assert "ts_note" not in only_click(tracker).parameters


@pytest.mark.parametrize(
    ("url", "facts"),
    [
        (PAGE, {}),
        (PAGE, {"page": "https://www.shop.test/p/2"}),
        (PAGE, {"publisher": "stranger"}),
        (PAGE, {"program": "other"}),
        ("javascript:alert(1)", {}),
        ("https://evil.test\\@shop.test", {}),
    ],
)
def test_an_unsigned_deep_link_leads_to_the_landing_page(
    tracker: Any, url: str, facts: dict[str, str]
) -> None:
    settle(tracker, requires_signed_links=True)
    signature = signed(tracker, **facts) if facts else ""
    answer = tracker.get(f"/c/shop/blog?url={quote(url, safe='')}&sig={signature}")
    assert answer.status == 302
    assert answer.location.startswith("https://shop.test/start?ref=1&ts_click=")
    row = only_click(tracker)
    assert (row.parameters["ts_note"], row.unbillable_reason) == ("unsigned_url", "")


def test_every_bit_of_a_signature_counts(tracker: Any) -> None:
    settle(tracker, requires_signed_links=True)
    good = signed(tracker)
    for at in range(len(good)):
        altered = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        answer = tracker.get(f"/c/shop/blog?url={quote(PAGE, safe='')}&sig={altered}")
        assert answer.location.startswith("https://shop.test/start"), altered


def test_a_short_link_needs_no_signature(tracker: Any) -> None:
    settle(tracker, requires_signed_links=True)
    link = make_link(tracker, url=PAGE)
    assert tracker.get(f"/l/{link.code}").location.startswith("https://www.shop.test/p/1?")
    bare = make_link(tracker)
    answer = tracker.get(f"/l/{bare.code}?url={quote(PAGE, safe='')}")
    assert answer.location.startswith("https://shop.test/start?")


PUBLISHERS, PROGRAMS, NETWORKS = (
    "https://blog.test/gone",
    "https://shop.test/gone",
    "https://n.test/",
)


@pytest.mark.parametrize(
    ("fallbacks", "expected"),
    [
        ((PUBLISHERS, PROGRAMS, NETWORKS), PUBLISHERS),
        (("", PROGRAMS, NETWORKS), PROGRAMS),
        (("", "", NETWORKS), NETWORKS),
        (("", "", ""), PAGE),
    ],
)
def test_visitors_of_a_paused_program_go_to_the_nearest_fallback(
    sqlite_engine: Engine, world: Any, serve: Any, fallbacks: tuple[str, str, str], expected: str
) -> None:
    publisher, program, network = fallbacks
    tracker = serve(sqlite_engine, fallback_url=network)
    settle(tracker, fallback_url=program)
    publisher_fallback(tracker, world, publisher)
    assert "ts_click" in tracker.get(f"/c/shop/blog?url={quote(PAGE, safe='')}").location
    tracker.ship()
    with unit_of_work(tracker.engine) as session:
        found = programs.find(session, "shop")
        programs.set_status(session, found, status=ProgramStatus.PAUSED, actor="t", now=clock.now())
    tracker.run(tracker.node.refresh)
    answer = tracker.get(f"/c/shop/blog?url={quote(PAGE, safe='')}")
    assert (answer.status, answer.location) == (302, expected)
    tracker.ship()
    [row] = [row for row in tracker.rows(Click) if row.unbillable_reason]
    assert (row.unbillable_reason, row.landing_url) == ("paused", expected)


def test_a_publisher_that_was_put_out_does_not_choose_the_page(tracker: Any, world: Any) -> None:
    settle(tracker, fallback_url=PROGRAMS)
    publisher_fallback(tracker, world, PUBLISHERS)
    with unit_of_work(tracker.engine) as session:
        publishers.set_membership(
            session,
            program=programs.find(session, "shop"),
            publisher=publishers.get(session, world.blog_id),
            status=MembershipStatus.SUSPENDED,
            actor="t",
            now=clock.now(),
        )
    tracker.run(tracker.node.refresh)
    assert tracker.get("/c/shop/blog").location == PROGRAMS
    assert only_click(tracker).unbillable_reason == "not_a_member"


def test_a_retired_link_goes_to_its_publishers_page(tracker: Any, world: Any) -> None:
    link = make_link(tracker, url=PAGE)
    publisher_fallback(tracker, world, "https://bücher.test/größe")
    retire(tracker, link)
    answer = tracker.get(f"/l/{link.code}")
    assert answer.location == "https://xn--bcher-kva.test/gr%C3%B6%C3%9Fe"
    assert "ts_click" in tracker.get("/c/shop/blog").location, "what is alive does not fall back"


@pytest.mark.parametrize(
    "agent",
    [
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "WhatsApp/2.23.20.0 A",
        "Twitterbot/1.0",
        "TelegramBot (like TwitterBot)",
        "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
        "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
        "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
    ],
)
def test_previews_are_sent_on_and_cannot_earn(tracker: Any, agent: str) -> None:
    answer = tracker.get("/c/shop/blog", user_agent=agent)
    assert (answer.status, answer.location) == (302, "https://shop.test/start?ref=1#top")
    row = only_click(tracker)
    assert (row.unbillable_reason, row.user_agent) == ("preview", agent)


@pytest.mark.parametrize(
    ("query", "headers", "reason"),
    [
        ("cons=0", {}, "no_consent"),
        ("cons=1", {"sec_gpc": "1"}, "global_privacy_control"),
        ("", {"sec_gpc": "1"}, "global_privacy_control"),
        (f"gdpr=1&gdpr_consent={NO}", {}, "no_consent_tcf"),
        ("gdpr=1&gdpr_consent=nonsense", {}, "no_consent_tcf"),
        ("gdpr=1", {}, "no_consent_tcf"),
        (f"tcf={NO}", {}, "no_consent_tcf"),
    ],
)
def test_without_consent_nothing_is_passed_on_and_nothing_kept(
    tracker: Any, query: str, headers: dict[str, str], reason: str
) -> None:
    page = quote("https://shop.test/p?email=jo@shop.test#jo", safe="")
    answer = tracker.get(
        f"/c/shop/blog?url={page}&s1=slot&who=jo@shop.test&{query}",
        referer="https://jo.test/private",
        accept_language="de-CH",
        **headers,
    )
    assert answer.location == "https://shop.test/p?email=jo@shop.test#jo"
    assert "set-cookie" not in answer.headers
    raw = journaled(tracker)
    for evidence in (b"Mozilla", b"91.0.0", b"jo@", b"jo.test", b"de-CH", b"gdpr", b"private"):
        assert evidence not in raw
    row = only_click(tracker)
    assert row.unbillable_reason == reason
    assert row.landing_url == "https://shop.test/p"
    assert (row.sub_ids, row.parameters) == ({"s1": "slot"}, {"s1": "slot"})
    assert (row.address, row.visitor_key, row.user_agent, row.agent_class) == ("", "", "", "")
    assert (row.referrer, row.accept_language, row.country) == ("", "", None)
    assert (row.sec_fetch_dest, row.sec_fetch_mode, row.sec_purpose) == (None, None, None)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("cons=1", {}),
        (f"gdpr=1&gdpr_consent={YES}", {}),
        (f"gdpr=0&gdpr_consent={NO}", {}),
        (f"gdpr=1&tcf={OTHERS}", {}),
        ("", {"sec_gpc": "0"}),
    ],
)
def test_with_consent_a_click_earns(tracker: Any, query: str, headers: dict[str, str]) -> None:
    assert click_id_in(tracker.get(f"/c/shop/blog?{query}", **headers).location) is not None
    assert only_click(tracker).unbillable_reason == ""


@pytest.mark.usefixtures("world")
def test_the_operator_asks_for_a_vendor_and_may_leave_the_browsers_signal_out(
    sqlite_engine: Engine, serve: Any
) -> None:
    tracker = serve(sqlite_engine, tcf_vendor_id=VENDOR, honours_global_privacy_control=False)
    assert "ts_click" not in tracker.get(f"/c/shop/blog?gdpr=1&tcf={OTHERS}").location
    assert "ts_click" in tracker.get(f"/c/shop/blog?gdpr=1&tcf={YES}").location
    assert "ts_click" in tracker.get("/c/shop/blog", sec_gpc="1").location


@pytest.mark.parametrize(
    ("query", "sub_ids"),
    [
        ("sharedid=4&subId1=1", {"s1": "1", "s4": "4"}),
        ("subid=x", {"s1": "x"}),
        ("&".join(f"sub{n}={n}" for n in range(1, 11)), {f"s{n}": str(n) for n in range(1, 11)}),
        ("clickref=1&campaign=c", {"s1": "1", "s5": "c"}),
        ("sub_id_1=1&sub_id_10=10", {"s1": "1", "s10": "10"}),
        ("epi=1&epi2=2", {"s1": "1", "s2": "2"}),
        ("ascsubtag=a", {"s1": "a"}),
        ("adref=2&pubref=1", {"s1": "1", "s2": "2"}),
        ("data2=2&data1=1", {"s1": "1", "s2": "2"}),
        ("u1=later&sid=first", {"s1": "first"}),
    ],
)
def test_sub_ids_of_more_dialects(tracker: Any, query: str, sub_ids: dict[str, str]) -> None:
    tracker.get(f"/c/shop/blog?{query}")
    row = only_click(tracker)
    assert row.sub_ids == sub_ids
    assert row.parameters == dict(pair.split("=") for pair in query.split("&"))


@pytest.mark.parametrize("name", ["ulp", "mpre", "wgtarget", "deeplink", "p", "path"])
def test_deep_links_of_more_dialects(tracker: Any, name: str) -> None:
    answer = tracker.get(f"/c/shop/blog?{name}={quote(PAGE, safe='')}")
    assert answer.location.startswith("https://www.shop.test/p/1?a=1&ts_click=")


@pytest.mark.parametrize("query", ["p=2", "path=/cart", "p=javascript:alert(1)", "p="])
def test_a_name_that_means_anything_is_no_deep_link_without_an_address(
    tracker: Any, query: str
) -> None:
    answer = tracker.get(f"/c/shop/blog?{query}")
    assert (answer.status, answer.location[:32]) == (302, "https://shop.test/start?ref=1&ts")


def test_parameters_in_the_path(tracker: Any) -> None:
    page = quote(PAGE, safe="")
    answer = tracker.get(f"/c/shop/blog/pubref:a+b&c/adref:two/destination:{page}?s3=x")
    assert answer.location.startswith("https://www.shop.test/p/1?a=1&ts_click=")
    assert only_click(tracker).sub_ids == {"s1": "a+b&c", "s2": "two", "s3": "x"}


def test_a_destination_takes_the_rest_of_the_path(tracker: Any) -> None:
    answer = tracker.get("/c/shop/blog/destination:https://shop.test/a/b:c/d")
    assert answer.location.startswith("https://shop.test/a/b:c/d?ts_click=")
    foreign = tracker.get("/c/shop/blog/destination:https:%2F%2Fevil.test")
    assert foreign.location.startswith("https://shop.test/start")


@pytest.mark.parametrize("path", ["/c/shop/blog/", "/c/shop/blog/x", "/c/shop/blog/a/b:c"])
def test_a_path_that_says_nothing_is_no_link(tracker: Any, path: str) -> None:
    assert tracker.get(path).status == 404


def test_the_click_parameter_and_macros_follow_the_program(tracker: Any) -> None:
    settle(tracker, click_parameter="cid.x")
    location = tracker.get(f"/c/shop/blog?url={quote('https://shop.test/?cid.x=old', safe='')}")
    assert location.location.startswith("https://shop.test/?cid.x=")
    assert "old" not in location.location
    macro = quote("https://shop.test/{click_id}/{s1}", safe="")
    answer = tracker.get(f"/c/shop/blog?s1=a&url={macro}")
    assert answer.location.startswith("https://shop.test/%7Bclick_id%7D/%7Bs1%7D?cid.x=")


def test_settings_refuse_a_fallback_that_is_no_page() -> None:
    for url in ("javascript:alert(1)", "//x.test", "https://a b/", "https://u@x.test", "http://"):
        with pytest.raises(ValueError, match="plain http"):
            Settings(fallback_url=url)
    assert Settings(fallback_url="https://n.test/gone?x=1#y").fallback_url
