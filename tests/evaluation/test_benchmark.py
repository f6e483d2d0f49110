"""Tables of several models: counts, averages, ranks, tests and their files."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

from jaxqa.errors import UserError
from jaxqa.evaluation import benchmark_files, benchmark_table
from jaxqa.evaluation.benchmark import Entry, Settings, run_benchmark
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.protocols import PROTOCOLS


def entry(model, dataset, *, noise, size=60, failed=0, seed=0, **more):
    random = np.random.default_rng([seed, len(dataset)])
    labels = random.uniform(1, 5, size)
    scores = labels + noise * np.random.default_rng([seed, size]).normal(size=size)
    predictions = [
        Prediction(
            example_id=number,
            image=f"{number}.png",
            dataset="jaxqa_demo",
            label=float(label),
            score=float(score) if number >= failed else None,
            error=None if number >= failed else "no number",
            text="",
        )
        for number, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    return Entry(model=model, dataset=dataset, task="quality", predictions=predictions, **more)


@pytest.fixture(scope="module")
def benchmark():
    entries = [
        entry("good_7b", "one:test", noise=0.2),
        entry("fair", "one:test", noise=0.8, failed=3),
        entry("poor", "one:test", noise=2.0),
        entry("good_7b", "two:all", noise=0.3),
        entry("fair", "two:all", noise=0.5),
    ]
    protocols = (PROTOCOLS["raw"], PROTOCOLS["deqa"])
    return run_benchmark(entries, Settings(protocols=protocols, resamples=100))


def find(results, **wanted):
    (found,) = [r for r in results if all(getattr(r, k) == v for k, v in wanted.items())]
    return found


def test_figures_leave_failures_out_and_count_them(benchmark):
    given = entry("fair", "one:test", noise=0.8, failed=3).predictions[3:]
    scores, labels = np.array([(p.score, p.label) for p in given]).T
    result = find(benchmark.results, model="fair", dataset="one:test", protocol="raw")
    assert (result.scored, result.failed) == (57, 3)
    assert result.figures["plcc"].value == pytest.approx(stats.pearsonr(scores, labels).statistic)
    assert result.figures["plcc"].low < result.figures["plcc"].value < result.figures["plcc"].high
    assert len(benchmark.failures) == 3
    assert {(m, d) for m, d, _ in benchmark.failures} == {("fair", "one:test")}


def test_averages_are_plain_means_and_need_every_data_set(benchmark):
    parts = [
        find(benchmark.results, model="good_7b", dataset=dataset, protocol="raw")
        for dataset in ("one:test", "two:all")
    ]
    average = find(benchmark.averages, model="good_7b", dataset="average", protocol="raw")
    for metric in ("plcc", "srcc"):
        mean = sum(part.figures[metric].value for part in parts) / 2
        assert average.figures[metric].value == pytest.approx(mean)
    assert find(benchmark.averages, model="poor", protocol="raw").figures["plcc"].value is None


def test_best_and_second_are_marked(benchmark):
    marks = {r.model: r.marks for r in benchmark.results if r.dataset == "one:test"}
    assert marks["good_7b"]["srcc"] == 1 and marks["fair"]["srcc"] == 2
    assert "srcc" not in marks["poor"]
    assert marks["good_7b"]["rmse"] == 1  # the lowest
    two = {r.model: r.marks for r in benchmark.results if r.dataset == "two:all"}
    assert two["good_7b"]["plcc"] == 1 and "plcc" not in two["fair"]  # of two, no second


def test_figures_that_print_alike_share_their_rank():
    same = [entry(name, "d", noise=0.3) for name in ("a", "b")]
    found = run_benchmark([*same, entry("c", "d", noise=1.0)], Settings(resamples=0))
    assert [r.marks.get("plcc") for r in found.results] == [1, 1, 2]
    assert found.comparisons == [] and found.results[0].figures["plcc"].low is None


def test_paired_tests_use_the_images_that_both_scored(benchmark):
    found = find(
        benchmark.comparisons,
        dataset="one:test", first="good_7b", second="fair", metric="plcc", protocol="raw",
    )  # fmt: skip
    assert found.images == 57
    first = entry("good_7b", "one:test", noise=0.2).predictions[3:]
    second = entry("fair", "one:test", noise=0.8, failed=3).predictions[3:]
    values = [
        stats.pearsonr([p.score for p in side], [p.label for p in side]).statistic
        for side in (first, second)
    ]
    assert found.difference == pytest.approx(values[0] - values[1])
    assert found.low <= found.difference <= found.high
    assert found.p_bootstrap < 0.05 and found.p_williams < 0.05
    assert len(benchmark.comparisons) == 2 * 2 * (3 + 1)  # protocols, metrics, pairs


def test_groups_are_averaged_apart():
    entries = [entry("m", name, noise=0.5) for name in ("a", "bb", "ccc")]
    groups = {"in-domain": ("a", "bb"), "out-of-domain": ("ccc",)}
    found = run_benchmark(entries, Settings(resamples=0, groups=groups))
    assert [a.dataset for a in found.averages] == ["in-domain", "average"]
    values = [r.figures["srcc"].value for r in found.results]
    assert found.averages[0].figures["srcc"].value == pytest.approx(math.fsum(values[:2]) / 2)


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (dict(noise=0.2, failed=60), "0 scored images"),
        (dict(noise=0.2, failed=59), "1 scored images"),
        (dict(noise=0.0, size=2), None),
    ],
)
def test_degenerate_entries_have_a_row_and_a_reason(given, note):
    found = run_benchmark([entry("m", "d", **given)], Settings(resamples=50))
    assert (found.results[0].note is None) == (note is None)
    if note:
        assert note in found.results[0].note
        assert found.results[0].figures["plcc"].value is None
    for suffix in (".md", ".tex", ".csv", ".json"):
        benchmark_files._WRITERS[suffix](found, ["a note"])


def test_why_a_figure_is_missing_is_told_of_what_the_protocol_compares():
    """All labels lie above 100, where TATAR's script cuts them to one number."""
    given = entry("m", "d", noise=0.2)
    high = [dataclasses.replace(p, label=p.label + 200) for p in given.predictions]
    settings = Settings(protocols=(PROTOCOLS["tatar"],), resamples=0)
    found = run_benchmark([dataclasses.replace(given, predictions=high)], settings)
    assert found.results[0].note == "all labels are the same"


def test_one_entry_per_model_and_data_set():
    with pytest.raises(ValueError, match="one entry per model and data set"):
        run_benchmark([entry("m", "d", noise=1.0)] * 2, Settings())
    with pytest.raises(ValueError, match="got 0 entries"):
        run_benchmark([], Settings())


def test_markdown_has_counts_marks_intervals_and_failures(benchmark):
    text = benchmark_files.to_markdown(benchmark, ["prompt q_insight"])
    assert "- prompt q_insight" in text
    table = [line for line in text.splitlines() if line.startswith("| fair")]
    assert "(57 + 3)" in table[0] and "<u>" in table[0] and "(60 + 0)" in table[0]
    good = next(line for line in text.splitlines() if line.startswith("| good_7b"))
    assert good.count("**") == 12  # two figures of two data sets and the average
    assert "## Protocol `deqa`" in text and "4-parameter logistic" in text
    assert "Images without a score (3)" in text and "`0.png`: no number" in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) <= 4


def test_latex_escapes_names(benchmark):
    text = benchmark_files.to_latex(benchmark, ["note"])
    assert r"good\_7b" in text and r"\textbf{0." in text and r"\underline{0." in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {3}


def _latex_rows(text):
    body = text[text.index(r"\begin{tabular}") : text.index(r"\end{tabular}")]
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if "&" in line]


@pytest.mark.parametrize(("models", "first", "shrunk"), [(1, "data set", 0), (8, "data set", 1)])
def test_broad_latex_tables_are_turned_and_made_to_fit_the_line(models, first, shrunk):
    names = [f"set{number}:test" for number in range(9)]
    entries = [
        entry(f"model{m}", name, noise=0.5, seed=m, size=9) for m in range(models) for name in names
    ]
    text = benchmark_files.to_latex(run_benchmark(entries, Settings(resamples=0)))
    header, *rows = _latex_rows(text)
    assert header == [first, *(f"model{m}" for m in range(models))]
    assert [row[0] for row in rows] == [*names, "average"]
    assert {len(row) for row in rows} == {1 + models}
    assert text.count(r"\resizebox{\linewidth}") == shrunk and text.count("{") == text.count("}")
    assert text.count(r"\midrule") == 2  # below the heading, above the average


def test_latex_has_no_character_that_tex_reads_as_more():
    name = "a_b^2<c>|d~e\\f{g}&h%i$j#k"
    found = run_benchmark([entry(name, "d", noise=1.0)], Settings(resamples=0))
    text = benchmark_files.to_latex(found)
    assert _latex_rows(text)[0][1] == (
        r"a\_b\textasciicircum{}2\textless{}c\textgreater{}\textbar{}d\textasciitilde{}e"
        r"\textbackslash{}f\{g\}\&h\%i\$j\#k"
    )
    given = entry("m", "d", noise=0.1)
    wrong = [dataclasses.replace(p, score=-(p.score or 0.0)) for p in given.predictions]
    given = dataclasses.replace(given, predictions=wrong)
    text = benchmark_files.to_latex(run_benchmark([given], Settings(resamples=0)))
    assert _latex_rows(text)[1][1].startswith("$-$0.9")


def test_a_terminals_table_is_turned_where_it_would_be_cut(benchmark):
    header, rows = benchmark_table.plain_table(benchmark, "raw", width=200)
    assert header == ["model", "one:test", "two:all", "average"] and len(rows) == 3
    found = run_benchmark(
        [entry("m", f"{n}:test", noise=0.5) for n in range(9)], Settings(resamples=0)
    )
    header, rows = benchmark_table.plain_table(found, "raw", width=80)
    assert header == ["data set", "m"] and [row[0] for row in rows][-2:] == ["8:test", "average"]
    assert benchmark_table.breadth((header, rows)) <= 80


def test_csv_and_json_hold_every_figure(benchmark):
    rows = list(csv.DictReader(io.StringIO(benchmark_files.to_csv(benchmark))))
    assert len(rows) == 2 * (5 * 5 + 3 * 2)
    row = next(
        r for r in rows if (r["model"], r["dataset"], r["metric"]) == ("fair", "one:test", "srcc")
    )
    result = find(benchmark.results, model="fair", dataset="one:test", protocol="raw")
    assert float(row["value"]) == result.figures["srcc"].value
    assert (row["scored"], row["failed"], row["rank"]) == ("57", "3", "2")
    content = json.loads(benchmark_files.to_json(benchmark))
    assert len(content["failures"]) == 3 and len(content["results"]) == 10


def test_files_are_written_by_suffix(benchmark, tmp_path):
    for suffix in (".md", ".tex", ".csv", ".json"):
        path = tmp_path / "new" / f"table{suffix}"
        benchmark_files.write_benchmark(path, benchmark)
        assert path.stat().st_size > 500
    with pytest.raises(UserError, match=r"ends in \.md, \.tex, \.csv, \.json"):
        benchmark_files.write_benchmark(tmp_path / "table.xlsx", benchmark)
