"""Writes a catalogue for a demo program: a Google Merchant TSV, as a shop would publish it."""

import csv
import random
from pathlib import Path

from kernel.money import exponent_of, format_amount
from server.demo_network import DemoProgram

_ITEMS = 24
_COLOURS = ("sand", "moss", "slate", "indigo", "rust", "pearl")
_COLUMNS = (
    "id",
    "title",
    "description",
    "link",
    "image_link",
    "availability",
    "price",
    "sale_price",
    "brand",
    "condition",
    "product_type",
    "item_group_id",
)


def write(folder: Path, program: DemoProgram) -> Path:
    """The path of the file; the same program always gives the same bytes."""
    chance = random.Random(f"catalogue {program.code}")  # noqa: S311 - invented goods, not secrets
    path = folder / f"{program.code}.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(_COLUMNS)
        for number in range(_ITEMS):
            writer.writerow(_item(chance, program, number))
    return path


def _item(chance: random.Random, program: DemoProgram, number: int) -> list[str]:
    category, name = program.goods[number % len(program.goods)]
    colour = _COLOURS[number // len(program.goods) % len(_COLOURS)]
    low, high = program.basket_minor
    step = 10 ** exponent_of(program.currency)
    price_minor = max(step, chance.randrange(low, high) // step * step - (1 if step > 1 else 0))
    on_sale = chance.random() < 0.25  # noqa: PLR2004 - a quarter of the goods
    sale = format_amount(price_minor * 8 // 10, program.currency) if on_sale else ""
    return [
        f"{program.login}-{number:03d}",
        f"{name}, {colour}",
        f"{name} in {colour}. Made for {program.name}.",
        f"https://www.{program.domain}/p/{number:03d}",
        f"https://www.{program.domain}/img/{number:03d}.jpg",
        "out_of_stock" if number % 11 == 10 else "in_stock",  # noqa: PLR2004 - every eleventh
        f"{format_amount(price_minor, program.currency)} {program.currency}",
        f"{sale} {program.currency}" if sale else "",
        program.name,
        "new",
        category,
        f"{program.login}-{number % len(program.goods)}",
    ]
