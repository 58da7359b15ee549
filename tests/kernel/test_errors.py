"""Refusals carry their facts."""

from kernel.errors import FieldProblem, InvalidInput, NotFound, TooMany, invalid


def test_invalid_input_names_every_field_and_speaks_of_the_first() -> None:
    error = InvalidInput(
        [
            FieldProblem(field="items[2].amount", rule="decimals", message="EUR has 2 decimals"),
            FieldProblem(field="currency", rule="iso_4217", message="is unknown"),
        ]
    )

    assert str(error) == error.message == "items[2].amount: EUR has 2 decimals"
    assert error.facts == {
        "errors": [
            {"field": "items[2].amount", "rule": "decimals", "message": "EUR has 2 decimals"},
            {"field": "currency", "rule": "iso_4217", "message": "is unknown"},
        ]
    }


def test_invalid_is_the_short_way_to_one_field() -> None:
    error = invalid("code", "format", "is not a code")

    assert error.problems == [FieldProblem(field="code", rule="format", message="is not a code")]


def test_facts_are_kept_as_given() -> None:
    assert NotFound("no such program", kind="program").facts == {"kind": "program"}
    assert TooMany("slow down", retry_after_seconds=7).facts == {"retry_after_seconds": 7}
