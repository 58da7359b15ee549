"""A key is claimed once, answered once, and bound to who sent it and what came with it."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel import idempotency
from kernel.database import reading
from kernel.errors import InvalidInput
from kernel.idempotency import IdempotencyRecord, KeyInFlight, KeyReused, Seen
from kernel.problems import status_of
from tests.conftest import NOW

SEEN = Seen(actor="cli_1", key="k", request_hash="h")
HOURS = 24


def begin(engine: Engine, seen: Seen = SEEN, *, seconds: float = 0) -> IdempotencyRecord | None:
    return idempotency.begin(engine, seen, now=NOW + timedelta(seconds=seconds), hours=HOURS)


def finish(engine: Engine, seen: Seen = SEEN, *, body: str = '{"n":1}') -> None:
    idempotency.finish(engine, seen, status=201, media_type="application/json", body=body)


def kept(engine: Engine) -> list[IdempotencyRecord]:
    with reading(engine) as session:
        return list(session.exec(select(IdempotencyRecord)))


def test_the_first_answer_is_given_again(engine: Engine) -> None:
    assert begin(engine) is None
    finish(engine, body='{"n":"\u597d"}')

    for _ in range(2):
        found = begin(engine, seconds=100)
        assert found is not None
        assert (found.status, found.media_type, found.body) == (
            201,
            "application/json",
            '{"n":"\u597d"}',
        )


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_key_with_another_request_is_refused(sqlite_engine: Engine, is_finished: bool) -> None:  # noqa: FBT001 - a parameter of the test
    begin(sqlite_engine)
    if is_finished:
        finish(sqlite_engine)

    with pytest.raises(KeyReused) as refused:
        begin(sqlite_engine, Seen(actor="cli_1", key="k", request_hash="other"))

    assert status_of(type(refused.value)) == 422
    assert [record.request_hash for record in kept(sqlite_engine)] == ["h"]


def test_a_request_that_still_runs_is_a_conflict(sqlite_engine: Engine) -> None:
    begin(sqlite_engine)

    with pytest.raises(KeyInFlight) as refused:
        begin(sqlite_engine, seconds=59)

    assert status_of(type(refused.value)) == 409


def test_a_claim_whose_owner_died_is_taken_over_after_a_minute_by_one(engine: Engine) -> None:
    begin(engine)

    assert begin(engine, seconds=60) is None
    with pytest.raises(KeyInFlight):
        begin(engine, seconds=61)


def test_a_key_belongs_to_its_actor(sqlite_engine: Engine) -> None:
    begin(sqlite_engine)
    finish(sqlite_engine)

    assert begin(sqlite_engine, Seen(actor="cli_2", key="k", request_hash="h")) is None


def test_a_forgotten_key_is_free_again(sqlite_engine: Engine) -> None:
    begin(sqlite_engine)

    idempotency.forget(sqlite_engine, SEEN)

    assert kept(sqlite_engine) == []
    assert begin(sqlite_engine, Seen(actor="cli_1", key="k", request_hash="mended")) is None


def test_an_answer_is_remembered_for_its_hours_and_no_longer(engine: Engine) -> None:
    begin(engine)
    finish(engine)

    assert begin(engine, seconds=HOURS * 3600) is not None
    assert begin(engine, seconds=HOURS * 3600 + 1) is None


def test_finishing_a_key_that_is_gone_changes_nothing(sqlite_engine: Engine) -> None:
    finish(sqlite_engine)

    assert kept(sqlite_engine) == []


def test_bug_two_requests_with_a_new_key_met_as_an_integrity_error(engine: Engine) -> None:
    for number in range(10):
        seen = Seen(actor="cli_1", key=f"k{number}", request_hash="h")
        outcomes: list[str] = []
        together = threading.Barrier(3)

        def claim(
            seen: Seen = seen,
            outcomes: list[str] = outcomes,
            together: threading.Barrier = together,
        ) -> None:
            together.wait(10)
            try:
                outcomes.append("claimed" if begin(engine, seen) is None else "answered")
            except Exception as error:  # noqa: BLE001 - named by the assertion below
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=claim) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert sorted(outcomes) == ["KeyInFlight", "KeyInFlight", "claimed"]


@pytest.mark.parametrize(
    ("header", "key"),
    [("abc", "abc"), ('"abc"', "abc"), ("  abc ", "abc"), ('"', '"'), ("x" * 255, "x" * 255)],
)
def test_a_key_is_read_quoted_or_bare(header: str, key: str) -> None:
    assert idempotency.parse_key(header) == key


@pytest.mark.parametrize("header", ["", "  ", '""', "x" * 256, "a\tb", "a\x7fb"])
def test_a_key_that_is_none_is_refused_by_name(header: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        idempotency.parse_key(header)

    assert refused.value.problems[0].field == "Idempotency-Key"
