"""The registry's rows as facts that must agree with each other."""

import dataclasses
import re

import pytest

from jaxqa.data import readers, registry
from jaxqa.data.readers import own_table
from jaxqa.data.records import PARTS
from jaxqa.rewards.labels import TASKS

INFOS = list(registry.DATASETS.values())


def _each(function):
    return pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)(function)


@_each
def test_ranges_and_tasks(info):
    low, high = info.label_range
    assert low < high and info.task in TASKS
    if info.measured_range:
        assert low <= info.measured_range[0] < info.measured_range[1] <= high
    assert re.fullmatch("[a-z0-9_]+", info.name)


@_each
def test_layouts(info):
    for layout in info.layouts:
        assert layout.reader in readers.READERS and layout.files and layout.images
        assert all(file.paths for file in layout.files)
        assert {file.part for file in layout.files} <= {None, *PARTS}
        for pattern in (layout.columns.pattern, layout.columns.drop):
            re.compile(pattern)
        assert not layout.columns.drop or layout.columns.drop_reason
        scored = layout.reader in ("koniq", "ava") or bool(layout.columns.score)
        assert scored != bool(layout.columns.answers)


@_each
def test_published_sizes_add_up(info):
    for counts in (info.own_counts, *(split.counts for split in info.splits.values())):
        assert counts.keys() <= set(PARTS)
        if info.count and set(counts) == set(PARTS):
            assert sum(counts.values()) == info.count
    if info.own_counts and info.count:
        assert sum(info.own_counts.values()) == info.count
    for split in info.splits.values():
        assert split.source
        assert not info.count or sum(split.counts.values()) <= info.count


def test_directions_after_reading():
    """Every label of the registry rises with quality: CSIQ's is turned round, KADID's is not."""
    assert all(info.higher_is_better for info in INFOS)
    csiq, kadid = registry.dataset_info("csiq"), registry.dataset_info("kadid10k")
    assert {layout.columns.factor for layout in csiq.layouts} == {-1.0}
    assert {layout.columns.factor for layout in kadid.layouts} == {1.0}


def test_the_sets_of_the_papers_are_there():
    wanted = "koniq10k spaq livec kadid10k pipal csiq tid2013 agiqa3k agiqa3k_alignment bid ava "
    wanted += "tad66k flickr_aes para aadb artimuse10k evalmuse40k evalmi50k genai_bench_527 "
    wanted += "genai_bench_1600 t2i_compbench qinsight_degradation qinsight_comparison deblurring "
    wanted += "dehazing super_resolution jaxqa_demo"
    assert set(wanted.split()) <= registry.DATASETS.keys()


def test_rows_are_refused_that_make_no_sense():
    info = registry.dataset_info("csiq")
    with pytest.raises(ValueError, match="task is 'beauty'"):
        dataclasses.replace(info, task="beauty")
    for wrong in ({"label_range": (1.0, 1.0)}, {"layouts": ()}):
        with pytest.raises(ValueError, match="expected a label range that rises, and a layout"):
            dataclasses.replace(info, **wrong)


def test_tasks_without_scores_name_the_same_answers_everywhere():
    for name, columns in (
        ("qinsight_degradation", own_table.DEGRADATION),
        ("qinsight_comparison", own_table.COMPARISON),
    ):
        for layout in registry.dataset_info(name).layouts:
            assert layout.columns.answers == columns.answers
