import gzip
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from feeds.formats import FeedError, FeedLimits, Format, detect, read_items
from feeds.rules import RawItem

SHARED_DATA = Path(
    os.environ.get("TALLYSTICK_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
LIMITS = FeedLimits()
RSS = (
    '<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0">'
    "<channel>{}</channel></rss>"
)

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def made(content: str | bytes) -> Path:
        path = tmp_path / "feed"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return made


def rows(path: Path, limits: FeedLimits = LIMITS) -> list[RawItem]:
    return list(read_items(path, limits=limits))


def broken(path: Path, limits: FeedLimits = LIMITS) -> FeedError:
    with pytest.raises(FeedError) as caught:
        rows(path, limits)
    return caught.value


def test_tsv_with_spaced_names_quotes_and_repeats(write: Write) -> None:
    path = write(
        "\ufeffID\tTitle\tImage Link\tadditional image link\tadditional_image_link\tg:price\r\n"
        'a1\t22" TV\thttp://s/1\thttp://s/2\thttp://s/3\t1.00 USD\r\n'
        'a2\t"two\tcells, ""one"" line\nbreak"\thttp://s/1\t\thttp://s/3\t\r\n'
        "\r\n"
        "a3\tshort\r\n"
    )
    assert detect(path) == "google_tsv"
    first, second, third = rows(path)
    assert first.values == {
        "id": "a1",
        "title": '22" TV',
        "image_link": "http://s/1",
        "additional_image_link": ["http://s/2", "http://s/3"],
        "price": "1.00 USD",
    }
    assert (first.row_number, first.problems) == (2, ())
    assert second.values["title"] == 'two\tcells, "one" line\nbreak'
    assert second.values["additional_image_link"] == "http://s/3"
    assert "price" not in second.values
    assert third.row_number == 5
    assert [(p.rule, p.severity) for p in third.problems] == [("column_count", "error")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_csv_in_each_unicode_encoding(write: Write, encoding: str) -> None:
    path = write("id,title,price\n1,华为手机 é,9.00 CNY\n".encode(encoding))
    assert detect(path) == "google_csv"
    assert [row.values["title"] for row in rows(path)] == ["华为手机 é"]


def test_windows_1251_is_recognised(write: Write) -> None:
    path = write("id\ttitle\n1\tЖёлтый чайник\n".encode("windows-1251"))
    assert [row.values["title"] for row in rows(path)] == ["Жёлтый чайник"]


def test_other_eight_bit_text_is_not_guessed(write: Write) -> None:
    path = write("id\ttitle\n1\tCafé crème brûlée\n".encode("latin-1"))
    assert broken(path).code == "encoding_unknown"


def test_one_bad_byte_costs_a_warning_not_the_feed(write: Write) -> None:
    good = b"2\tfine\n" * 20_000
    path = write(b"id\ttitle\n" + good + b"1\tb\xffd\n")
    read = rows(path)
    assert len(read) == 20_001
    (problem,) = read[-1].problems
    assert (problem.row_number, problem.column) == (20_002, "title")
    assert (problem.rule, problem.severity) == ("encoding", "warning")


def test_nul_and_oversized_cells_are_left_out_by_name(write: Write) -> None:
    path = write("id\ttitle\tprice\n1\ta\0b\t1 USD\n2\t" + "x" * 101 + "\t1 USD\n")
    nul, long = rows(path, replace(LIMITS, cell_chars_max=100))
    assert nul.values == {"id": "1", "price": "1 USD"}
    assert [(p.column, p.rule, p.severity) for p in nul.problems] == [("title", "nul", "error")]
    assert long.values == {"id": "2", "price": "1 USD"}
    assert [(p.column, p.rule) for p in long.problems] == [("title", "cell_chars_max")]


@pytest.mark.parametrize(
    ("content", "facts", "limit"),
    [
        ("id\ttitle\n" + "1\tx\n" * 4, {"rows_max": 3}, "rows_max"),
        ("id\ttitle\tlink\n1\tx\ty\n", {"columns_max": 2}, "columns_max"),
        ("id\ttitle\n1\t" + "x" * 99 + "\n", {"line_chars_max": 50}, "line_chars_max"),
        ("id\ttitle\n" + "1\tx\n" * 9, {"decoded_bytes_max": 40}, "decoded_bytes_max"),
        ('id\ttitle\n1\t"x\n' + "2\tx\n" * 9, {"row_lines_max": 5}, "row_lines_max"),
    ],
)
def test_table_limits_are_named(
    write: Write, content: str, facts: dict[str, int], limit: str
) -> None:
    refusal = broken(write(content), replace(LIMITS, **facts))
    assert refusal.limit == limit


def test_open_quote_does_not_swallow_rows_silently(write: Write) -> None:
    lost = 'id\ttitle\n1\t"open\n2\tb\n3\tc\n'
    between = 'id\ttitle\n1\t"open\n2\tb\n3\t"c"\n4\td\n'
    for content in (lost, between):
        assert broken(write(content)).code == "quote_open"
    huge = 'id\ttitle\n1\t"' + ("x" * 900 + "\n") * 200
    assert broken(write(huge)).limit == "cell_chars_max"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello world",
        b"name,cost\n1,2\n",
        b"id;title;price\n1;a;2\n",
        b"PK\x03\x04rest",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"<html><body/></html>",
        b"<feed xmlns='http://www.w3.org/2005/Atom'/>",
        b'{"id": 1}',
    ],
)
def test_other_files_are_not_taken_for_feeds(write: Write, content: bytes) -> None:
    assert broken(write(content)).code in {"format_unknown", "encoding_unknown"}


def test_gzip_files_are_read_alike(write: Write) -> None:
    plain = "id\ttitle\n1\tx\n"
    expected = rows(write(plain))
    assert rows(write(gzip.compress(plain.encode()))) == expected
    assert len(expected) == 1
    packed = gzip.compress(RSS.format("<item><g:id>1</g:id></item>").encode())
    assert [row.values for row in rows(write(packed))] == [{"id": "1"}]


@pytest.mark.parametrize(
    ("head", "unit"), [(b"id\ttitle\n", b"1\tx\n"), (RSS.partition("{}")[0].encode(), b"<a/>")]
)
def test_gzip_bombs_and_stumps_are_refused(write: Write, head: bytes, unit: bytes) -> None:
    bomb = write(gzip.compress(head + unit * 1_500_000))
    assert broken(bomb).limit == "ratio_max"
    assert broken(bomb, replace(LIMITS, decoded_bytes_max=10_000)).limit == "decoded_bytes_max"
    noise = b"".join(unit.replace(b"x", b"%d" % n) for n in range(90_000))
    stump = gzip.compress(head + noise)[:-20]
    assert broken(write(stump)).code == "gzip_damaged"


def test_rss_plain_and_prefixed_names(write: Write) -> None:
    path = write(
        RSS.format(
            "<title>Shop</title><item><title>plain</title><g:id>1</g:id>"
            "<link> http://s/1 </link><description><![CDATA[<b>x</b> & y]]></description>"
            "<g:additional_image_link>http://s/2</g:additional_image_link>"
            "<g:additional_image_link>http://s/3</g:additional_image_link>"
            "<g:shipping><g:country>US</g:country><g:price>1 USD</g:price></g:shipping>"
            "<x:id xmlns:x='urn:other'>no</x:id><g:brand/></item>"
            "<item><title>plain</title><g:title>g</g:title><g:id>2</g:id></item>"
        )
    )
    assert detect(path) == "google_rss"
    assert [(row.row_number, row.values) for row in rows(path)] == [
        (
            1,
            {
                "title": "plain",
                "id": "1",
                "link": "http://s/1",
                "description": "<b>x</b> & y",
                "additional_image_link": ["http://s/2", "http://s/3"],
                "shipping": [{"country": "US", "price": "1 USD"}],
            },
        ),
        (2, {"title": "g", "id": "2"}),
    ]


def test_googles_example_feed_is_read_exactly() -> None:
    path = SHARED_DATA / "feeds" / "example_feed_xml_rss.xml"
    if not path.exists():
        pytest.skip("the shared example feed is not present")
    assert detect(path) == "google_rss"
    read = rows(path)
    assert [(row.values["id"], row.values["price"]) for row in read] == [
        ("TV_123456", "159.00 USD"),
        ("DVD-0564738", "11.99 USD"),
        ("PFM654321", "99 USD"),
        ("CLO-29473856-1", "29.50 USD"),
        ("CLO-29473856-2", "29.50 USD"),
        ("CLO-1029384", "33.99 USD"),
    ]
    assert [row.problems for row in read] == [()] * 6
    assert read[2].values["shipping"] == [
        {"country": "US", "service": "Standard Rate", "price": "4.95 USD"},
        {"country": "US", "service": "Next Day", "price": "8.50 USD"},
    ]
    assert read[5].values["sale_price"] == "25.49 USD"
    assert read[0].values["title"] == 'LG 22LB4510 - 22" LED TV - 1080p (FullHD)'


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE rss [<!ENTITY a "b">]>',
        '<!DOCTYPE rss SYSTEM "file:///etc/passwd">',
        "<!-- " + "x" * 70_000 + " --><!DOCTYPE rss>",
        '<!DOCTYPE rss [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE rss [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_doctype_is_refused(write: Write, prolog: str, encoding: str) -> None:
    body = RSS.format("<item><g:id>1</g:id><title>t</title></item>").partition("?>")[2]
    path = write((prolog + body).encode(encoding))
    with pytest.raises(FeedError) as caught:
        list(read_items(path, limits=LIMITS, file_format="google_rss"))
    assert caught.value.code == "xml_doctype"


def test_hidden_encodings_are_refused(write: Write) -> None:
    path = write('<?xml version="1.0" encoding="UTF-7"?><rss><channel/></rss>')
    assert broken(path).code == "encoding_unknown"


def test_declared_encoding_is_followed(write: Write) -> None:
    text = '<?xml version="1.0" encoding="windows-1251"?>' + RSS.partition("?>")[2]
    path = write(text.format("<item><title>Чай</title></item>").encode("windows-1251"))
    assert [row.values["title"] for row in rows(path)] == ["Чай"]


@pytest.mark.parametrize(
    ("inner", "limit"),
    [
        ("<a>" * 40 + "</a>" * 40, "xml_depth_max"),
        ("<item>" + "<a/>" * 1_001 + "</item>", "xml_elements_per_item_max"),
        ("<item>" + "<a>xxxxxxxxxx</a>" * 900 + "</item>", "xml_chars_per_item_max"),
        ("<item>" + "<a/>xxxxxxxxxx" * 900 + "</item>", "xml_chars_per_item_max"),
        (
            "<item " + " ".join(f"a{n}=''" for n in range(65)) + "/>",
            "xml_attributes_max",
        ),
    ],
)
def test_xml_limits_are_named(write: Write, inner: str, limit: str) -> None:
    path = write(RSS.format(inner))
    assert broken(path, replace(LIMITS, xml_chars_per_item_max=5_000)).limit == limit


def test_truncated_xml_gives_its_items_and_then_fails(write: Write) -> None:
    whole = RSS.format("<item><g:id>1</g:id></item>" * 3)
    reader = read_items(write(whole[: whole.rindex("<item>") + 9]), limits=LIMITS)
    assert [next(reader).row_number, next(reader).row_number] == [1, 2]
    with pytest.raises(FeedError) as caught:
        next(reader)
    assert caught.value.code == "xml_malformed"


def resident_mib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("known", ["google_rss", "google_tsv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, known: Format) -> None:
    """80 MB of rows pass through a reader that may keep 20 MB at the end."""
    path = tmp_path / "feed"
    with path.open("w") as file:
        if known == "google_rss":
            head, tail = RSS.split("{}")
            row = "<item><g:id>1</g:id><a>" + "x" * 2_000 + "</a></item>\n"
        else:
            head, row, tail = "id\ttitle\n", "1\t" + "x" * 2_000 + "\n", ""
        file.write(head)
        file.writelines(row for _ in range(40_000))
        file.write(tail)
    before = resident_mib()
    number = 0
    for item in read_items(path, limits=LIMITS):
        number += 1
        assert item.values["id"] == "1"
        if number == 39_999:
            assert resident_mib() - before < 20
    assert number == 40_000
