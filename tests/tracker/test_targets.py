"""Nobody is sent out of the program's own domains, whatever a browser makes of the text."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import InvalidInput
from tracker.targets import Landing, around_click, is_allowed, read_destination

ALLOWED = ("shop.test", "www.whitelisteddomain.tld")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://shop.test", "https://shop.test/"),
        ("HTTPS://SHOP.test/A?B=c#D", "https://shop.test/A?B=c#D"),
        ("http://a.b.shop.test:8080/x", "http://a.b.shop.test:8080/x"),
        ("https://shop.test?q=1", "https://shop.test/?q=1"),
        ("https://shop.test#f", "https://shop.test/#f"),
        ("https://shop.test/ü?ö=ä#é", "https://shop.test/%C3%BC?%C3%B6=%C3%A4#%C3%A9"),
        ("https://shop.test/a%20b+c", "https://shop.test/a%20b+c"),
        ('https://shop.test/"<>{}|^`', "https://shop.test/%22%3C%3E%7B%7D%7C%5E%60"),
        ("https://shop.test//evil.test/..", "https://shop.test//evil.test/.."),
        ("https://shop.test/?u=https://evil.test", "https://shop.test/?u=https://evil.test"),
    ],
)
def test_own_pages(text: str, expected: str) -> None:
    assert read_destination(text, ALLOWED) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.test/",
        "https://evilshop.test/",
        "https://shop.test.evil.test/",
        "https://shop.tes/",
        "https://test/",
        "http://2130706433/",
        "http://127.0.0.1/",
        "https://evil.test/@shop.test",
        "https://evil.test?shop.test",
        "https://evil.test#shop.test",
    ],
)
def test_foreign_pages(text: str) -> None:
    assert read_destination(text, ALLOWED) is None


@pytest.mark.parametrize(
    "text",
    [
        "https://evil.test\\@shop.test/",
        "https://shop.test\\.evil.test/",
        "https://shop.test@evil.test/",
        "https://user:pw@shop.test/",
        "https://shop.test:80%40evil.test/",
        "https://shop.test:99999/",
        "https://shop.test:0/",
        "https://shop.test:/",
        "//evil.test/",
        "///evil.test",
        "/path",
        "shop.test",
        "https:shop.test",
        "https:/shop.test",
        "https:///shop.test",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://shop.test/",
        "ht\ttps://shop.test/",
        "https://shop.test/\r\nSet-Cookie: x=1",
        "https://shop.test/a b",
        " https://shop.test/",
        "https://shop.test/\n",
        "https://evil.test\u3002shop.test/",
        "https://shop\uff0etest/",
        "https://evil.test\uff0fshop.test/",
        "https://\u0455hop.test/",
        "https://sh%6fp.test/",
        "https://shop..test/",
        "https://.shop.test/",
        "https://shop.test./",
        "https://[::1]/",
        "https://shop.test\x00.evil.test/",
        "https://" + "a" * 64 + ".shop.test/",
        "",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_destination(text, ALLOWED)
    assert [problem.field for problem in caught.value.problems] == ["url"]


def test_dots_are_boundaries() -> None:
    assert is_allowed("shop.test", ["shop.test"])
    assert is_allowed("a.shop.test", ["shop.test"])
    assert not is_allowed("ashop.test", ["shop.test"])
    assert not is_allowed("shop.test", ["a.shop.test"])
    assert not is_allowed("shop.test", [])


def accepted(text: str, allowed: tuple[str, ...]) -> str | None:
    try:
        return read_destination(text, allowed)
    except InvalidInput:
        return None


def test_published_open_redirects_do_not_pass(shared_data: Path) -> None:
    lines = [
        line
        for file in sorted((shared_data / "attacks" / "open_redirect").glob("*.txt"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    payloads = {form for line in lines for form in (line, unquote(line), unquote(unquote(line)))}
    assert len(payloads) > 300
    for payload in payloads:
        page = accepted(payload, ALLOWED)
        if page is not None:
            host = urlsplit(page).hostname or ""
            assert is_allowed(host, ALLOWED), payload
            assert page.startswith(("https://www.whitelisteddomain.tld", "http://www.whitelisted"))
            assert page.isascii()


def test_what_is_taken_means_the_same_host_to_a_browser(shared_data: Path) -> None:
    """Against the parsing cases that browsers are tested with."""
    cases = json.loads((shared_data / "attacks" / "url" / "urltestdata.json").read_text())
    cases = [case for case in cases if isinstance(case, dict)]
    hosts = {case["hostname"] for case in cases if case.get("hostname")}
    taken = 0
    for case in cases:
        for host in hosts:
            if accepted(case["input"], (host,)) is not None:
                taken += 1
                assert not case.get("failure"), case
                assert is_allowed(case["hostname"], (host,)), case
    assert taken > 20


@given(st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    for prefix in ("", "https://", "https://shop.test"):
        page = accepted(prefix + text, ALLOWED)
        if page is not None:
            assert page.isascii()
            assert is_allowed(urlsplit(page).hostname or "", ALLOWED)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("https://x/", "https://x/?c=ID"),
        ("https://x/?", "https://x/?c=ID"),
        ("https://x/?a=1", "https://x/?a=1&c=ID"),
        ("https://x/?a=1&", "https://x/?a=1&c=ID"),
        ("https://x/?a=1&&b#f?g", "https://x/?a=1&&b&c=ID#f?g"),
        ("https://x/#f", "https://x/?c=ID#f"),
        ("https://x/?c=old&a=1&c=older", "https://x/?a=1&c=ID"),
        ("https://x/?%63=old", "https://x/?c=ID"),
        ("https://x/?cc=1", "https://x/?cc=1&c=ID"),
    ],
)
def test_around_click(page: str, expected: str) -> None:
    assert "ID".join(around_click(page, "c")[0]) == expected


def test_without_click_an_old_one_goes() -> None:
    assert around_click("https://x/?c=old", "c")[1] == "https://x/"
    assert around_click("https://x/?a=1&c=old#f", "c")[1] == "https://x/?a=1#f"


def test_landing_with_and_without_macros() -> None:
    plain = Landing.of("https://x/?a={s9}", "c")
    assert "ID".join(plain.around({"s1": "v"})[0]) == "https://x/?a={s9}&c=ID"
    placed = Landing.of("https://x/{program}/{publisher}?i={click_id}&s={s1}{s5}#{s2}", "c")
    values = {"program": "p", "publisher": "b", "s1": "a b&", "s2": "#"}
    assert "ID".join(placed.around(values)[0]) == "https://x/p/b?i=ID&s=a%20b%26#%23"
    assert placed.around({})[1] == "https://x//?i=&s=#"
    nested = Landing.of("https://x/?s={s1}", "c")
    assert "ID".join(nested.around({"s1": "{click_id}"})[0]) == "https://x/?s=%7Bclick_id%7D&c=ID"


def test_landing_outside_ascii_is_encoded() -> None:
    landing = Landing.of("https://bücher.test/größe", "c")
    assert landing.around({})[1] == "https://xn--bcher-kva.test/gr%C3%B6%C3%9Fe"
