"""What cannot be learned from is refused, with the image's name."""

import dataclasses
from pathlib import Path

import pytest
from distill_fixtures import SCORES, make_triplets

from jaxqa.distill.triplets import ScoreRange, check_triplets
from jaxqa.errors import UserError

GOOD = make_triplets(3)


def change(**values):
    return [GOOD[0], dataclasses.replace(GOOD[1], **values), GOOD[2]]


def test_good_ones_pass():
    check_triplets(GOOD, SCORES)
    check_triplets(change(rationales=()), SCORES, with_texts=False)
    check_triplets(change(score=1.0), SCORES)
    check_triplets(change(score=5.0), SCORES)


@pytest.mark.parametrize(
    ("triplets", "message"),
    [
        ([], "no image with rationale"),
        (change(score=float("nan")), "image 1: the score is nan, expected a number from 1 to 5"),
        (change(score=float("inf")), "image 1: the score is inf"),
        (change(score=5.01), "image 1: the score is 5.01"),
        (change(score=0.0), "image 1: the score is 0"),
        (change(rationales=()), "image 1: no rationale"),
        (change(rationales=("fine", " \n")), "image 1: rationale 2 of 2 is empty"),
        (change(image=Path("/no/such.png")), "image 1: no image file /no/such.png"),
        (change(example_id=1000), "image 1 and image 0 have one id"),
        ([GOOD[0], GOOD[0]], "1 images are listed twice"),
        ([dataclasses.replace(t, score=3.0) for t in GOOD], "all 3 images have the score 3"),
    ],
)
def test_bad_ones_are_refused(triplets, message):
    with pytest.raises(UserError, match=message):
        check_triplets(triplets, SCORES)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf"))])
def test_bad_ranges_are_refused(bounds):
    with pytest.raises(ValueError, match="expected low < high"):
        ScoreRange(low=bounds[0], high=bounds[1])
