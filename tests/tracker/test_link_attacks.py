"""Published attacks as deep links: judged by a parser that browsers' standard is tested with."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ada_url
import msgspec
import pytest

from kernel.errors import InvalidInput
from tests.tracker.conftest import BROWSER
from tracker import clicks
from tracker.click_answers import Answer
from tracker.click_core import ClickCore, ClickRequest, Decision
from tracker.deep_links import DeepLinkSigner
from tracker.routing import RoutingTable
from tracker.targets import is_allowed, read_destination

# Domains of the demonstration programs, and those that the published payloads pretend to be.
DOMAINS = ("shop.test", "www.whitelisteddomain.tld", "whitelisteddomain.tld", "example.com")


def lines(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.txt")):
        yield from file.read_text("utf-8", errors="replace").split("\n")


def parsing_cases(folder: Path) -> Iterator[str]:
    for case in json.loads((folder / "urltestdata.json").read_text()):
        if isinstance(case, dict):
            yield case["input"]
    for cases in json.loads((folder / "setters_tests.json").read_text()).values():
        for case in cases:
            if isinstance(case, dict):
                yield from (case["href"], case["new_value"], "https://shop.test/" + case["href"])


def host_names(folder: Path) -> Iterator[str]:
    for name in ("IdnaTestV2.txt", "psl_test_vectors.txt", "public_suffix_list.dat"):
        for line in (folder / name).read_text("utf-8").splitlines()[:5000]:
            host = line.partition(";")[0].strip()
            if host and not host.startswith(("#", "//")):
                yield from (f"https://{host}/", f"https://{host}.shop.test/")
    for case in json.loads((folder / "bad_punycode_tests.json").read_text()):
        yield from (f"https://{case['decoded']}/", f"https://{case['decoded']}.shop.test/")


@cache
def published(folder: Path) -> tuple[str, ...]:
    """Every payload of these lists, and every input of the parsing cases."""
    attacks = folder / "attacks"
    return tuple(
        dict.fromkeys(
            chain(
                lines(attacks / "open_redirect"),
                lines(attacks / "crlf"),
                parsing_cases(attacks / "url"),
                host_names(attacks / "url"),
            )
        )
    )


def forms(payload: str) -> Iterator[bytes]:
    """A payload as it stands, percent-encoded once, and twice."""
    raw = payload.encode("utf-8", "surrogatepass")
    once = quote(raw, safe="").encode()
    yield raw
    yield once
    yield quote(once, safe="").encode()


def judge(answer: Answer) -> str:
    """Whether the answer is harmless: to a page of the program, or a refusal."""
    for name, value in answer.headers:
        assert not set(name + value) & set(b"\r\n\0"), (name, value)
        assert all(32 <= byte < 127 for byte in value), (name, value)
    assert answer.status in {302, 400, 414}, answer
    if answer.status != 302:
        assert not [name for name, _ in answer.headers if name == b"location"]
        return "refused"
    location = dict(answer.headers)[b"location"].decode("ascii")
    parsed = ada_url.URL(location)
    assert parsed.protocol in {"http:", "https:"}, location
    assert (parsed.username, parsed.password) == ("", ""), location
    assert is_allowed(parsed.hostname, DOMAINS), location
    return parsed.hostname


def decide(
    core: ClickCore, table: RoutingTable, query: bytes, path: bytes = b"/c/shop/blog"
) -> Decision:
    return core.decide(
        ClickRequest("GET", path, query, {"user-agent": BROWSER}, "91.0.0.77"), table
    )


@pytest.fixture
def core(tracker: Any) -> ClickCore:
    node = tracker.node
    return ClickCore(node.settings, node.signer, DeepLinkSigner(node.keys))


@pytest.fixture
def table(tracker: Any) -> RoutingTable:
    """The tracker's network, with the domains that payloads pretend to be as the shop's own."""
    known = tracker.node.routing.table
    shops = [
        msgspec.structs.replace(one, allowed_domains=DOMAINS) if one.code == "shop" else one
        for one in known.snapshot.programs
    ]
    snapshot = msgspec.structs.replace(known.snapshot, programs=tuple(shops))
    return RoutingTable(snapshot, known.links)


@pytest.mark.parametrize(("name", "step"), [("url", 1), ("destination", 9), ("p", 9), ("path", 9)])
def test_no_published_payload_leads_out(
    shared_data: Path, core: ClickCore, table: RoutingTable, name: str, step: int
) -> None:
    payloads = published(shared_data)
    assert len(payloads) > 10_000
    hosts: Counter[str] = Counter()
    for payload in payloads[::step]:
        for form in forms(payload):
            decision = decide(core, table, name.encode() + b"=" + form)
            hosts[judge(decision.answer)] += 1
            if decision.untracked is not None:
                judge(decision.untracked)
    assert hosts["shop.test"] > 100
    assert hosts["refused"] > 100 or name in {"p", "path"}
    followed = [host for host in hosts if host not in {"shop.test", "refused"}]
    assert followed, "deep links that are good are followed"


def test_no_published_payload_leads_out_by_the_path(
    shared_data: Path, core: ClickCore, table: RoutingTable
) -> None:
    for payload in published(shared_data)[::3]:
        for form in forms(payload):
            judge(decide(core, table, b"", b"/c/shop/blog/destination:x" + form).answer)
            answer = decide(core, table, b"", b"/c/shop/blog/destination:" + form).answer
            if answer.status != 404:
                judge(answer)


def accepted(text: str) -> str | None:
    try:
        return read_destination(text, DOMAINS)
    except InvalidInput:
        return None


def test_no_published_payload_becomes_a_link(shared_data: Path) -> None:
    """What the link API, the console and the click share is `read_destination`."""
    taken = 0
    for payload in published(shared_data):
        for form in forms(payload):
            page = accepted(form.decode("utf-8", "replace"))
            if page is not None:
                taken += 1
                assert is_allowed(ada_url.URL(page).hostname, DOMAINS), page
    assert taken > 20


def test_payloads_in_every_part_of_a_link_split_nothing(
    shared_data: Path, core: ClickCore, table: RoutingTable
) -> None:
    for file in sorted((shared_data / "attacks" / "crlf").glob("*.txt")):
        for line in file.read_bytes().split(b"\n"):
            for form in (line, quote(line, safe="").encode()):
                for path, query in (
                    (b"/c/other/blog", b"s1=" + form),
                    (b"/c/shop/blog", form + b"=1"),
                    (b"/c/shop/blog/pubref:" + form, b""),
                    (b"/c/" + form + b"/blog", b""),
                    (b"/l/" + form, b""),
                ):
                    answer = decide(core, table, query, path).answer
                    for name, value in answer.headers:
                        assert not set(name + value) & set(b"\r\n\0")
                    assert answer.status in {302, 400, 404}


@pytest.mark.parametrize(
    "query",
    [
        b"url=https://shop.test/\xff\xfe",
        b"url=https://shop.test/%ff%fe",
        b"url=https://shop.test/%00",
        b"url=%00",
        b"s1=%0d%0aSet-Cookie:%20a=b",
        b"s1=\xff\xfe\x00\x0d\x0a",
        b"url=https://shop.test/" + b"a" * 8000,
        b"&" * 8000,
        b"=" * 8000,
        b"%" * 8000,
        b"gdpr=1&tcf=" + b"\xff" * 5000,
        b"sig=%ff&url=%ff",
    ],
)
def test_bytes_of_any_kind_are_answered(core: ClickCore, table: RoutingTable, query: bytes) -> None:
    for path in (b"/c/shop/blog", b"/c/other/blog"):
        answer = decide(core, table, query, path).answer
        assert answer.status in {302, 400, 414}
        for name, value in answer.headers:
            assert not set(name + value) & set(b"\r\n\0")


def test_the_query_never_fails(shared_data: Path) -> None:
    for payload in published(shared_data)[:3000]:
        for form in forms(payload):
            query = clicks.read_query(form.decode("latin-1"), sub_id_chars_max=64)
            assert all(len(value) <= 64 for value in query.parameters.values())
