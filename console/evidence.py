"""The reasons of an assessment as a manager weighs them, with what else would explain each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console import words
from fraud import flags, signals
from fraud.models import Assessment

_POINTS_FULL = 450  # What a signal that holds alone is worth; the bar of a reason ends there.
_SIGNALS = {signal.CODE: signal for signal in signals.SIGNALS}


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason of an assessment as a manager weighs it; `bar` is its weight in percent."""

    name: str
    sentence: str
    innocent: str
    points: int
    hard: bool
    bar: int


def reasons_of(assessment: Assessment, language: str) -> list[Reason]:
    """The stored reasons in a language, strongest first."""
    sentences = flags.words(assessment.reasons, language)
    return [
        _reason(facts, sentence, language)
        for facts, sentence in zip(assessment.reasons, sentences, strict=True)
    ]


def _reason(facts: Mapping[str, Any], sentence: str, language: str) -> Reason:
    signal = _SIGNALS.get(facts["code"])
    points = int(facts["points"])
    name = words.signal_name(facts["code"], signal.NAME if signal else "", language)
    return Reason(
        name=name,
        # The name stands above it already.
        sentence=sentence.removeprefix(name).lstrip(":\N{FULLWIDTH COLON} "),
        innocent=signal.INNOCENT if signal else "",
        points=points,
        hard=bool(facts.get("hard")),
        bar=max(0, min(100, 100 * points // _POINTS_FULL)),
    )
