"""The papers' tests as data: which data sets and splits their tables average over."""

import dataclasses
from collections.abc import Mapping

from jaxqa.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """The tests of one paper.

    Attributes:
      name: on the command line.
      groups: heading of an average -> `dataset:split` of its data sets, in the paper's order.
      protocol: preset that the paper's numbers come from.
      source: where the choice comes from, and what it leaves open.
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]
    protocol: str
    source: str

    @property
    def datasets(self) -> tuple[str, ...]:
        """All data sets, in order."""
        return tuple(name for group in self.groups.values() for name in group)


_DEQA_TESTS = ("koniq10k:deqa", "spaq:deqa", "kadid10k:tatar", "pipal:deqa")

_SUITES = (
    Suite(
        name="tatar",
        groups={
            "quality": ("koniq10k:tatar", "spaq:tatar", "kadid10k:tatar", "pipal:tatar"),
            "aesthetics": ("artimuse10k:test", "ava:tatar", "tad66k:test", "flickr_aes:tatar"),
        },
        protocol="tatar",
        source="TATAR's repository, benchmark/VR: eight lists of images and labels",
    ),
    Suite(
        name="rali",
        groups={"all": (*_DEQA_TESTS, "livec:deqa", "agiqa3k:deqa", "csiq:deqa")},
        protocol="raw",
        source="RALI and RACT, table 2: Q-Insight's tests, which are DeQA-Score's; KADID-10k's "
        "list is taken to be TATAR's",
    ),
    Suite(
        name="ract",
        groups={
            "in-domain": _DEQA_TESTS,
            "out-of-domain": ("livec:deqa", "agiqa3k:deqa", "csiq:deqa", "tid2013:deqa"),
        },
        protocol="raw",
        source="RALI and RACT, table 3; KADID-10k's list is taken to be TATAR's",
    ),
    Suite(
        name="aes_r1",
        groups={
            "in-domain": ("tad66k:test", "ava:official", "flickr_aes:aes_r1"),
            "out-of-domain": ("para:test", "aadb:aes_r1"),
        },
        protocol="raw",
        source="Aes-R1, table 1 and section C: official tests of TAD66K, AVA and PARA; 9:1 at "
        "random with an unknown seed for the others, so those two can only be approached",
    ),
    Suite(
        name="omniquality_r",
        groups={
            "quality": (
                *("koniq10k:test", "spaq:all", "livec:whole"),
                *("kadid10k:all", "pipal:all", "agiqa3k:whole"),
            ),
            "aesthetics": ("ava:official", "tad66k:test"),
            "alignment": (
                *("evalmuse40k:omniquality_r", "evalmi50k:test"),
                *("genai_bench_1600:whole", "t2i_compbench:all"),
            ),
        },
        protocol="raw",
        source="OmniQuality-R, tables 1 to 3; it names data sets and leaves their splits open",
    ),
    Suite(
        name="genai_bench",
        groups={"all": ("genai_bench_1600:whole",)},
        protocol="genai_bench",
        source="GenAI-Bench's own figures (t2v_metrics) on the benchmark of 1,600 prompts; give "
        "--dataset=genai_bench_527:whole for that of 527",
    ),
    Suite(
        name="evalmuse",
        groups={"all": ("evalmuse40k:test",)},
        protocol="evalmuse",
        source="NTIRE 2025, track 1 (alignment); its final score needs scores of elements, which "
        "come in a tool's JSON file (--scores) with total_score and element_score",
    ),
)
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _SUITES}


def get_suite(name: str) -> Suite:
    """The suite called `name`; UserError lists them."""
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}; expected one of {', '.join(SUITES)}")
    return SUITES[name]
