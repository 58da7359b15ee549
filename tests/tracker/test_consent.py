"""The TCF decoder against strings built bit by bit from the published layout of version 2."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.consent import TCF_CHARS_MAX, MalformedTcf, TcfConsent, read_tcf, tcf_refuses

# Made by hand from the layout: version 2, purpose 1, vendor 755 by range.
VENDOR = 755


@dataclass
class Core:
    """A core segment, field by field; what the decoder does not read has any value."""

    version: int = 2
    filler: int = 0
    purposes: Sequence[int] = (1,)
    legitimate: int = 0
    highest: int = 0
    vendors: frozenset[int] = frozenset()
    ranges: Sequence[tuple[int, int]] | None = None
    rest: str = ""
    bits: str = field(init=False)

    def __post_init__(self) -> None:
        bits = f"{self.version:06b}"
        # Created, LastUpdated, CmpId, CmpVersion, ConsentScreen, ConsentLanguage,
        # VendorListVersion, TcfPolicyVersion, IsServiceSpecific, UseNonStandardTexts,
        # SpecialFeatureOptIns.
        for width in (36, 36, 12, 12, 6, 12, 12, 6, 1, 1, 12):
            bits += f"{self.filler % (1 << width):0{width}b}"
        bits += "".join("1" if number in self.purposes else "0" for number in range(1, 25))
        bits += f"{self.legitimate:024b}"
        bits += "0"  # PurposeOneTreatment
        bits += f"{self.filler % (1 << 12):012b}"  # PublisherCC
        bits += f"{self.highest:016b}"
        if self.ranges is None:
            bits += "0"
            bits += "".join(
                "1" if number in self.vendors else "0" for number in range(1, self.highest + 1)
            )
        else:
            bits += f"1{len(self.ranges):012b}"
            for first, last in self.ranges:
                bits += f"0{first:016b}" if first == last else f"1{first:016b}{last:016b}"
        self.bits = bits + self.rest

    @property
    def text(self) -> str:
        padded = self.bits + "0" * (-len(self.bits) % 8)
        content = int(padded, 2).to_bytes(len(padded) // 8, "big")
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def test_the_layout_has_the_published_widths() -> None:
    assert len(Core().bits) == 213 + 16 + 1


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int]]:
    numbers = sorted(draw(st.sets(st.integers(1, 65535), max_size=12)))
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    singles = [(one, one) for one in draw(st.sets(st.integers(1, 65535), max_size=6))]
    return pairs + singles


@st.composite
def cores(draw: st.DrawFn) -> Core:
    vendors = draw(st.frozensets(st.integers(1, 900), max_size=40))
    return Core(
        purposes=tuple(draw(st.sets(st.integers(1, 24)))),
        filler=draw(st.integers(0, 2**36 - 1)),
        legitimate=draw(st.integers(0, 2**24 - 1)),
        highest=max(vendors, default=0) + draw(st.integers(0, 30)),
        vendors=vendors,
        # The sections behind the vendors' consents, which are not read.
        rest=draw(st.text("01", max_size=60)),
    )


@given(
    core=cores(),
    asked=st.integers(0, 1000),
    segments=st.sampled_from(["", ".YAAAAAAAAAA", ".IFukWSQh.QFukWSQh"]),
)
def test_a_bit_field_reads_back(core: Core, asked: int, segments: str) -> None:
    assert read_tcf(core.text + segments, vendor_id=asked) == TcfConsent(
        version=2, purpose_one=1 in core.purposes, vendor=asked in core.vendors
    )


@given(spans=ranges(), asked=st.integers(0, 65535), has_one=st.booleans())
def test_a_range_reads_back(spans: list[tuple[int, int]], asked: int, *, has_one: bool) -> None:
    core = Core(
        purposes=(1,) if has_one else (2, 24),
        highest=max((last for _, last in spans), default=0),
        ranges=spans,
    )
    said = read_tcf(core.text, vendor_id=asked)
    assert said.purpose_one is has_one
    assert said.vendor is any(first <= asked <= last for first, last in spans)


@given(cut=st.integers(1, 50), vendors=st.frozensets(st.integers(300, 600), min_size=1))
def test_a_string_that_ends_early_is_malformed(cut: int, vendors: frozenset[int]) -> None:
    text = Core(highest=max(vendors), vendors=vendors).text
    with pytest.raises(MalformedTcf):
        read_tcf(text[: -cut - 2], vendor_id=1)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        said = read_tcf(text, vendor_id=7)
    except MalformedTcf:
        return
    assert said.version == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "C",
        "CO",
        "${GDPR_CONSENT_755}",
        "CO xyz",
        "CO+/" + "A" * 60,
        "é" * 40,
        Core(version=1).text,
        Core(version=3).text,
        Core(highest=5, ranges=[(4, 3)]).text,
        Core(highest=5, ranges=[(0, 0)]).text,
        Core(highest=5, ranges=[(4, 6)]).text,
        Core().text + "." + "A" * TCF_CHARS_MAX,
    ],
)
def test_what_is_no_core_segment_is_malformed(text: str) -> None:
    with pytest.raises(MalformedTcf):
        read_tcf(text)


YES = Core(highest=VENDOR, vendors=frozenset({VENDOR})).text
OTHERS = Core(highest=VENDOR, vendors=frozenset({1, 2})).text
NO = Core(purposes=(2, 3), highest=VENDOR, vendors=frozenset({VENDOR})).text


@pytest.mark.parametrize(
    ("parameters", "vendor_id", "refuses"),
    [
        ({}, 0, False),
        ({"gdpr": ""}, 0, False),
        ({"gdpr": "0"}, 0, False),
        ({"gdpr": "0", "gdpr_consent": NO}, 0, False),
        ({"gdpr": "${GDPR}"}, 0, False),
        ({"gdpr": "1"}, 0, True),
        ({"gdpr": "1", "gdpr_consent": ""}, 0, True),
        ({"gdpr": "1", "gdpr_consent": YES}, 0, False),
        ({"gdpr": "1", "gdpr_consent": NO}, 0, True),
        ({"gdpr": "1", "gdpr_consent": "nonsense"}, 0, True),
        ({"gdpr_consent": YES}, 0, False),
        ({"gdpr_consent": NO}, 0, True),
        ({"gdpr_consent": "nonsense"}, 0, True),
        ({"tcf": NO}, 0, True),
        ({"euconsent": NO}, 0, True),
        ({"euconsent-v2": NO}, 0, True),
        ({"gdpr": "1", "tcf": YES}, VENDOR, False),
        ({"gdpr": "1", "tcf": OTHERS}, VENDOR, True),
        ({"gdpr": "1", "tcf": OTHERS}, 0, False),
        ({"gdpr": "1", "tcf": NO}, VENDOR, True),
    ],
)
def test_what_amounts_to_no_consent(
    parameters: dict[str, str], vendor_id: int, *, refuses: bool
) -> None:
    assert tcf_refuses(parameters, vendor_id=vendor_id) is refuses
