"""Finds a critique that gives away the score it was not to mention."""

import re
from collections.abc import Sequence

_NUMBER_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|a hundred|one hundred|hundred"
)
_AMOUNT = rf"(?:\d+(?:\.\d+)?|{_NUMBER_WORDS})"

_TELLTALE = re.compile(
    "|".join(
        (
            r"\bscor(?:e|es|ed|ing)\b",
            r"\brat(?:ing|ings|ed)\b",
            r"\bMOS\b",
            r"\bmean opinion\b",
            r"\bground[- ]truth\b",
            rf"\b{_AMOUNT}\s*(?:/|out of)\s*(?:5|10|100|five|ten|a hundred|one hundred)\b",
            rf"\b{_AMOUNT}[- ](?:stars?|points?)\b",
            r"\b(?:given|provided|hidden|private|confidential|assigned|target)\s+"
            r"(?:value|number|label|grade|mark|level|judge?ment|information)s?\b",
            r"\b(?:as|like) (?:instructed|requested|told|asked)\b",
            r"\bthe (?:instructions?|prompt)\b",
        )
    ),
    re.IGNORECASE,
)
# A comma before one or two digits is a decimal comma; before three it parts thousands.
_DECIMAL = re.compile(r"(?<![\w.,])(?:\d+\.\d+|\.\d+|\d+,\d{1,2})(?![\w.,]*\d)")
_WHOLE = re.compile(r"(?<![\w.,/:])\d{2,3}(?![\w%]|[.,/:]\d)")
_PERCENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:%|per ?cent\b)", re.IGNORECASE)


def find_leak(text: str, *, scores: Sequence[tuple[float, float]], tolerance: float) -> str | None:
    """The words that give the score away, or None.

    Talk of scores and ratings, of marks out of something, of a label that was given, and numbers
    near the score: a decimal number near it on any of the scales it has, a percentage or a whole
    number of two or three digits near its share of the range. Digits alone are no leak: pictures
    hold three boats.

    Args:
      text: what was written.
      scores: (score, width of the range) on every scale that the writer may have in mind; first
        that from 0 to 1.
      tolerance: how near is near, as a share of the range.
    """
    if match := _TELLTALE.search(text):
        return match.group()
    for match in (*_PERCENT.finditer(text), *_WHOLE.finditer(text)):
        if abs(float(match.group(match.lastindex or 0)) / 100 - scores[0][0]) <= tolerance:
            return match.group()
    for match in _DECIMAL.finditer(text):
        number = float(match.group().replace(",", "."))
        if any(abs(number - score) <= tolerance * width for score, width in scores):
            return match.group()
    return None
