"""Click ids: what goes in comes out, and nothing but what we signed is believed."""

import base64
import os
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.click_ids import (
    CLICK_ID_LENGTH,
    FLAG_IMPORTED,
    FLAG_NOT_BILLABLE,
    ClickFacts,
    ClickIdError,
    ClickIdSigner,
)

OLD_KEY = b"o" * 32
NEW_KEY = b"n" * 32
SIGNER = ClickIdSigner({1: OLD_KEY, 2: NEW_KEY}, current=2)
AT = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
U32 = st.integers(0, 2**32 - 1)


def mint(signer: ClickIdSigner = SIGNER, **changes: Any) -> str:
    facts: dict[str, Any] = {
        "at": AT,
        "program_number": 7,
        "publisher_number": 42,
        "random_bytes": b"0123456789",
    }
    return signer.mint(**(facts | changes))


def signed(body: bytes, key: bytes = NEW_KEY) -> str:
    """An id built by hand from the documented layout, independently of the signer."""
    mac = blake2b(body, key=key, digest_size=12, person=b"tallystick-click").digest()
    return base64.urlsafe_b64encode(body + mac).decode()


def reason(text: str, signer: ClickIdSigner = SIGNER) -> str:
    with pytest.raises(ClickIdError) as caught:
        signer.read(text)
    assert caught.value.facts["errors"][0]["rule"] == caught.value.reason
    return caught.value.reason


def body(*, version: int = 1, key_id: int = 2, flags: int = 0) -> bytes:
    time_ms = 1_772_600_767_890
    return (
        bytes([version, key_id])
        + time_ms.to_bytes(6, "big")
        + (7).to_bytes(4, "big")
        + (42).to_bytes(4, "big")
        + bytes([flags])
        + b"0123456789"
    )


def test_layout_is_the_documented_one() -> None:
    """An id is byte for byte what the module's table says, so other tools can make and read it."""
    assert mint() == signed(body())
    assert len(mint()) == CLICK_ID_LENGTH == 52


def test_same_import_gives_same_id_and_fresh_clicks_differ() -> None:
    assert mint(flags=FLAG_IMPORTED) == mint(flags=FLAG_IMPORTED)
    fresh = {mint(random_bytes=None) for _ in range(200)}
    assert len(fresh) == 200


@given(
    at=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # hypothesis wants naive bounds
    program=U32,
    publisher=U32,
    flags=st.sampled_from([0, 1, 2, 3]),
    random_bytes=st.none() | st.binary(min_size=10, max_size=10),
)
def test_round_trip(
    at: datetime, program: int, publisher: int, flags: int, random_bytes: bytes | None
) -> None:
    text = SIGNER.mint(
        at=at,
        program_number=program,
        publisher_number=publisher,
        flags=flags,
        random_bytes=random_bytes,
    )
    assert len(text) == 52
    assert set(text) <= set(ALPHABET)
    assert SIGNER.read(text) == ClickFacts(
        at=at.replace(microsecond=at.microsecond // 1000 * 1000),
        program_number=program,
        publisher_number=publisher,
        imported=bool(flags & FLAG_IMPORTED),
        billable=not flags & FLAG_NOT_BILLABLE,
    )


def test_time_of_another_zone_is_read_as_utc() -> None:
    beijing = timezone(timedelta(hours=8))
    assert SIGNER.read(mint(at=AT.astimezone(beijing))).at == AT
    assert SIGNER.read(mint(at=AT.astimezone(beijing))).at.tzinfo is UTC


def test_a_forked_process_shares_no_random_bytes() -> None:
    mint(random_bytes=None)  # a block is there
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if child == 0:
            file.write("".join(mint(random_bytes=None) for _ in range(600)).encode())
            file.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        file.seek(0)
        said = file.read().decode()
    theirs = {said[at : at + CLICK_ID_LENGTH] for at in range(0, len(said), CLICK_ID_LENGTH)}
    ours = {mint(random_bytes=None) for _ in range(600)}
    assert len(theirs | ours) == 1200


@given(random_bytes=st.binary(min_size=10, max_size=10), where=st.integers(0, 51), data=st.data())
def test_any_changed_character_is_refused(
    random_bytes: bytes, where: int, data: st.DataObject
) -> None:
    text = mint(random_bytes=random_bytes)
    other = data.draw(st.sampled_from([c for c in ALPHABET if c != text[where]]))
    assert reason(text[:where] + other + text[where + 1 :]) in {
        "malformed",
        "unknown_key",
        "forged",
    }


def test_every_single_character_change_of_one_id_is_refused() -> None:
    """All 52 x 63 neighbours of an id, exhaustively."""
    text = mint()
    for where, own in enumerate(text):
        for other in ALPHABET:
            if other != own:
                reason(text[:where] + other + text[where + 1 :])


@given(st.text(max_size=80) | st.text(ALPHABET, min_size=52, max_size=52))
def test_no_invented_text_is_believed(text: str) -> None:
    reason(text)


def test_two_ids_cannot_be_spliced() -> None:
    one, other = mint(publisher_number=1), mint(publisher_number=2)
    assert reason(one[:36] + other[36:]) == "forged"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "=",
        lambda text: text + "A",
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:20] + " " + text[20:],
        lambda text: text[:20] + "\n" + text[21:],
        lambda text: text[:-1] + "=",
        lambda text: text[:20] + "!" + text[20:],
        lambda text: text[:20] + "\u0661" + text[21:],
        lambda text: "\uff21" + text[1:],
        lambda _: "",
        lambda _: "\ud800" * 52,
    ],
)
def test_other_spellings_are_malformed(spoil: object) -> None:
    assert callable(spoil)
    assert reason(spoil(mint())) == "malformed"


def test_the_standard_alphabet_is_refused() -> None:
    """`+` and `/` would decode to the same bytes; an id has one spelling only."""
    text = mint(random_bytes=b"\xff" * 10)
    assert "_" in text
    assert reason(text.replace("_", "/").replace("-", "+")) == "malformed"


def test_keys_rotate_and_retire() -> None:
    old = mint(ClickIdSigner({1: OLD_KEY}, current=1))
    assert SIGNER.read(old).publisher_number == 42
    assert reason(old, ClickIdSigner({2: NEW_KEY}, current=2)) == "unknown_key"
    assert reason(old, ClickIdSigner({1: NEW_KEY}, current=1)) == "forged"


def test_signed_but_not_of_this_version_is_malformed() -> None:
    assert reason(signed(body(version=2))) == "malformed"
    assert reason(signed(body(flags=4))) == "malformed"
    assert reason(signed(body(key_id=3))) == "unknown_key"
    assert reason(signed(body(), key=OLD_KEY)) == "forged"


@pytest.mark.parametrize(
    "changes",
    [
        {"at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)},
        {"program_number": -1},
        {"program_number": 2**32},
        {"publisher_number": -1},
        {"publisher_number": 2**32},
        {"flags": 4},
        {"flags": -1},
        {"random_bytes": b"123456789"},
        {"random_bytes": b"12345678901"},
    ],
)
def test_facts_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|before|unknown"):
        mint(**changes)


def test_naive_time_is_refused() -> None:
    with pytest.raises(TypeError):
        mint(at=datetime(2026, 3, 4))  # noqa: DTZ001  # the naive time is the point


@pytest.mark.parametrize(
    ("keys", "current"),
    [({}, 1), ({1: OLD_KEY}, 2), ({1: b"short"}, 1), ({1: b"x" * 65}, 1), ({256: OLD_KEY}, 256)],
)
def test_unusable_keys_are_refused(keys: dict[int, bytes], current: int) -> None:
    with pytest.raises(ValueError, match="key"):
        ClickIdSigner(keys, current)
