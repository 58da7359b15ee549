from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from commissions.rules import parse_plan
from kernel.money import exponent_of
from server.demo_network import (
    EU,
    NOT_APPROVED,
    PROGRAMS,
    PUBLISHERS,
    REGIONS,
    DemoProgram,
    plan_document,
)
from server.retail import COUNTRIES

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.code)


@each_program
def test_the_plan_can_be_published_without_a_tie(program: DemoProgram) -> None:
    document = plan_document(program)

    plan = parse_plan(
        {name: value for name, value in document.items() if name != "rules"},
        document["rules"],
        publishing=True,
    )

    assert {rule.id for rule in plan.base_rules} == {rule["id"] for rule in program.rules}
    assert plan.warnings == ()
    assert plan.currency == program.currency
    assert plan.zone == ZoneInfo(program.timezone)


@each_program
def test_a_plan_names_the_regions_it_uses_and_no_other(program: DemoProgram) -> None:
    document = plan_document(program)

    used = {name for rule in program.rules for name in rule.get("when", {}).get("region", ())}
    assert set(document["regions"]) == used
    assert all(document["regions"][name] == REGIONS[name] for name in used)


@each_program
def test_levels_rise(program: DemoProgram) -> None:
    for rule in program.rules:
        levels = rule.get("tiers", {}).get("levels", [])
        for lower, upper in pairwise(levels):
            assert lower["from"] < upper["from"]
            assert float(lower["percent"]) < float(upper["percent"])
        assert not levels or levels[0]["from"] == 0


@each_program
def test_everything_is_invented(program: DemoProgram) -> None:
    assert program.domain.endswith(".example")
    assert sum(weight for _, weight in program.countries) == 100
    assert program.basket_minor[0] < program.basket_minor[1]


def test_four_currencies_and_one_of_them_without_minor_units() -> None:
    assert [program.currency for program in PROGRAMS] == ["GBP", "EUR", "USD", "JPY"]
    assert [exponent_of(program.currency) for program in PROGRAMS] == [2, 2, 2, 0]


def test_codes_are_unique_and_exceptions_name_them() -> None:
    programs = {program.code for program in PROGRAMS}
    publishers = {publisher.code for publisher in PUBLISHERS}

    assert (len(programs), len(publishers)) == (4, 8)
    assert {program for program, _ in NOT_APPROVED} <= programs
    assert {publisher for _, publisher in NOT_APPROVED} <= publishers
    assert set(NOT_APPROVED.values()) == {"pending", "suspended"}
    # The replay of an order file in pounds needs every publisher of that program.
    assert "hearth-uk" not in {program for program, _ in NOT_APPROVED}


def test_the_union_has_27_members_and_the_file_s_countries_are_codes() -> None:
    assert (len(EU), len(set(EU))) == (27, 27)
    codes = {code for code in COUNTRIES.values() if code}
    assert {"GB", "JE", "IE"} <= codes & set(REGIONS["UKI"])
    assert set(REGIONS["UKI"]) & set(EU) == {"IE"}
