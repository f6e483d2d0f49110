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


_SUITES = (
    Suite(
        name="tatar",
        groups={
            "quality": (
                "koniq10k:official/test",
                "spaq:qalign/test",
                "kadid10k:tatar/test",
                "pipal:tatar/test",
            ),
            "aesthetics": (
                "artimuse10k:official/test",
                "ava:official/test",
                "tad66k:official/test",
                "flickr_aes:official/test",
            ),
        },
        protocol="tatar",
        source="TATAR's repository, benchmark/VR: eight lists of images and labels",
    ),
    Suite(
        name="rali",
        groups={
            "all": (
                "koniq10k:deqa/test",
                "spaq:deqa/test",
                "kadid10k:deqa/test",
                "pipal:deqa/test",
                "live_challenge:all",
                "agiqa3k:all",
                "csiq:all",
            )
        },
        protocol="raw",
        source="RALI and RACT, table 2: Q-Insight's tests, which use DeQA-Score's lists",
    ),
    Suite(
        name="ract",
        groups={
            "in-domain": (
                "koniq10k:deqa/test",
                "spaq:deqa/test",
                "kadid10k:deqa/test",
                "pipal:deqa/test",
            ),
            "out-of-domain": ("live_challenge:all", "agiqa3k:all", "csiq:all", "tid2013:all"),
        },
        protocol="raw",
        source="RALI and RACT, table 3",
    ),
    Suite(
        name="aes_r1",
        groups={
            "in-domain": (
                "tad66k:official/test",
                "ava:official/test",
                "flickr_aes:aes_r1/test",
            ),
            "out-of-domain": ("para:official/test", "aadb:aes_r1/test"),
        },
        protocol="raw",
        source="Aes-R1, table 1 and section C: official tests of TAD66K, AVA and PARA; 9:1 at "
        "random with an unknown seed for the others, so those two can only be approached",
    ),
    Suite(
        name="omniquality_r",
        groups={
            "quality": (
                "koniq10k:official/test",
                "spaq:all",
                "live_challenge:all",
                "kadid10k:all",
                "pipal:all",
                "agiqa3k:all",
            ),
            "aesthetics": ("ava:official/test", "tad66k:official/test"),
            "alignment": (
                "evalmuse40k:test",
                "evalmi50k:test",
                "genai_bench:all",
                "t2i_compbench:all",
            ),
        },
        protocol="raw",
        source="OmniQuality-R, tables 1 to 3; it names data sets and leaves their splits open",
    ),
)
SUITES: Mapping[str, Suite] = {suite.name: suite for suite in _SUITES}


def get_suite(name: str) -> Suite:
    """The suite called `name`; UserError lists them."""
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r}; expected one of {', '.join(SUITES)}")
    return SUITES[name]
