import io

import pytest
from rich.console import Console

from jaxqa.evaluation import table, terminal

SUMMARY = {
    "stages": [
        {
            "name": "warmup",
            "steps": 9,
            "seconds": 61.26,
            "completions_per_second": None,
            "evaluation": None,
        },
        {
            "name": "sft",
            "steps": 9,
            "seconds": 100.0,
            "completions_per_second": 152.34,
            "evaluation": {
                "dataset": "jaxqa_demo",
                "plcc": None,
                "srcc": -0.04,
                "mae": 0.6,
                "n": 240,
                "n_failed": 3,
            },
        },
        {
            "name": "grpo",
            "steps": 9,
            "seconds": 300.0,
            "completions_per_second": 12.0,
            "evaluation": {
                "dataset": "jaxqa_demo",
                "plcc": 0.7,
                "srcc": 0.683,
                "mae": 0.4424,
                "n": 240,
                "n_failed": 0,
            },
        },
    ],
    "seconds": 461.26,
}


def test_cells_hold_the_summary():
    rows = [[cell.text for cell in row] for row in table.table_rows(SUMMARY)]
    assert rows == [
        ["warmup", "–", "–", "–", "–", "–", "61.3"],
        ["sft", "–", "−0.040", "0.600", "3 of 240", "152.3", "100.0"],
        ["grpo", "0.700", "0.683", "0.442", "0 of 240", "12.0", "300.0"],
    ]


def test_best_values_are_marked_where_there_is_a_choice():
    marked = [[cell.is_best for cell in row] for row in table.table_rows(SUMMARY)]
    assert marked[0] == marked[1] == [False] * 7
    # PLCC has one value only: nothing to choose; a low error is good, a high SRCC is.
    assert marked[2] == [False, False, True, True, False, False, False]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (8.349, "8.3 s"),
        (59.97, "1 min 00 s"),
        (247.0, "4 min 07 s"),
        (3599.6, "1 h 00 min"),
        (7530.0, "2 h 05 min"),
    ],
)
def test_seconds_read_well(seconds, text):
    assert table.format_seconds(seconds) == text


@pytest.mark.parametrize("width", [80, 200])
def test_printed_table_is_whole_in_a_common_terminal(width):
    output = io.StringIO()
    terminal.print_summary(SUMMARY, Console(file=output, width=width))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for row in table.table_rows(SUMMARY):
        assert any([cell.text in line for cell in row].count(True) == 7 for line in lines)
    assert "whole run: 7 min 41 s" in output.getvalue()


def test_stage_names_are_not_read_as_markup():
    output = io.StringIO()
    stage = {"name": "[bold red]x[/]", "seconds": 1.0, "evaluation": None}
    terminal.print_summary({"stages": [stage], "seconds": 1.0}, Console(file=output, width=100))
    assert "[bold red]x[/]" in output.getvalue()


def test_sources_get_rows_of_their_own_and_are_compared_with_themselves():
    def scored(srcc):
        return {"plcc": 0.5, "srcc": srcc, "mae": 1.0, "n": 9, "n_failed": 0}

    def named(right, failed):
        return {"class_accuracy": right, "severity_accuracy": None, "n": 4, "n_failed": failed}

    stages = [
        {
            "name": name,
            "seconds": 2.0,
            "completions_per_second": 3.0,
            "evaluation": scored(srcc),
            "evaluations": {"photographs": scored(srcc), "defects": named(right, 1)},
        }
        for name, srcc, right in (("sft", 0.9, 0.25), ("grpo", 0.4, 0.5))
    ]
    summary = {"stages": [{"name": "warmup", "evaluation": None}, *stages], "seconds": 4.0}
    titles = [column.title for column in table.table_columns(summary)]
    assert titles[:2] == ["stage", "source"] and titles[5:7] == [
        "class accuracy",
        "severity accuracy",
    ]
    rows = [[cell.text for cell in row] for row in table.table_rows(summary)]
    assert rows == [
        ["warmup", *["–"] * 9],
        ["sft", "photographs", "0.500", "0.900", "1.000", "–", "–", "0 of 9", "3.0", "2.0"],
        ["sft", "defects", "–", "–", "–", "0.250", "–", "1 of 4", "–", "–"],
        ["grpo", "photographs", "0.500", "0.400", "1.000", "–", "–", "0 of 9", "3.0", "2.0"],
        ["grpo", "defects", "–", "–", "–", "0.500", "–", "1 of 4", "–", "–"],
    ]
    best = [
        (row[0].text, row[1].text, cell.text)
        for row in table.table_rows(summary)
        for cell in row
        if cell.is_best
    ]
    assert ("sft", "photographs", "0.900") in best and ("grpo", "defects", "0.500") in best
    assert ("grpo", "photographs", "0.400") not in best and ("sft", "defects", "0.250") not in best
