"""One self-contained HTML page about a run.

The page makes no request and runs no script, and its content security policy forbids both: the
texts in it were written by a model and the pictures come from files. Every text is escaped.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxqa.data.registry import DatasetInfo, dataset_info
from jaxqa.errors import UserError
from jaxqa.evaluation import curves, gallery, plots, table
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.evaluation.run_files import RunRecord, StageRecord, read_run
from jaxqa.files import read_json
from jaxqa.train.json_lines import replacing

_FOLDER = Path(__file__).parent
_MOST_CHARACTERS = 900
# Control characters, bidirectional overrides (they turn text around beyond their own box) and
# lone surrogates; newline and tab stay.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def write_report(workdir: Path | str, *, manifest: Path | None = None) -> Path:
    """Writes `report/index.html` of a finished run and returns its path.

    Stages without evaluation, rollouts or metrics simply show less. The same work directory gives
    the same page, byte for byte.

    Args:
      workdir: needs `summary.json`; see `run_files.read_run` for the rest.
      manifest: a data set's manifest with sources and licences; without it, the one in
        `<workdir>/data` is used if there is one.

    Raises:
      UserError: a file of the run is damaged, or the page cannot be written.
    """
    run = read_run(workdir)
    page = render(run, sources=_sources(run.workdir, manifest))
    path = run.workdir / "report" / "index.html"
    with replacing(path) as file:
        file.write(page.encode("utf-8"))
    return path


def render(run: RunRecord, *, sources: list[dict[str, str]]) -> str:
    """The page as text; `sources` have `name`, `licence` and `origin`, which may be empty."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clean": clean,
        "number": table.format_number,
        "duration": table.format_seconds,
        "figure": _figure,
    }
    evaluated = [
        (index, stage, source)
        for index, stage in enumerate(run.stages)
        for source in stage.predictions
    ]
    last = evaluated[-1][1] if evaluated else None
    datasets = _datasets(run)
    return environment.get_template("report.html.jinja").render(
        css=Markup((_FOLDER / "report.css").read_text("utf-8")),
        title=run.workdir.resolve().name,
        lede=_lede(run),
        facts=_facts(run),
        datasets=datasets,
        synthetic=[info for info in datasets if info.synthetic],
        columns=table.table_columns(run.summary),
        rows=table.table_rows(run.summary),
        several_sources=any(row.source for row in table.tested(run.summary)),
        colours=[plots.stage_colour(row.stage) for row in table.tested(run.summary)],
        agreements=[_agreement(*which) for which in evaluated],
        training=[_training(index, stage) for index, stage in enumerate(run.stages)],
        galleries=[_gallery(run.workdir, *which) for which in evaluated if which[1] is last],
        config=json.dumps(run.config, indent=2, ensure_ascii=False) if run.config else None,
        sources=sources,
    )


def clean(text: Any, limit: int = _MOST_CHARACTERS) -> str:
    """Text that cannot disturb the page: no control characters, no more than `limit` characters."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
    return text if len(text) <= limit else text[:limit].rstrip() + " …"


def _figure(value: Any) -> str:
    """A number from a rollout file with two digits; a dash for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return table.format_number(value if is_number else None, 2)


def _lede(run: RunRecord) -> dict[str, Any] | None:
    """Rank correlations after the last tested stage and, where there was one, after the first."""
    rows = [row for row in table.tested(run.summary) if row.evaluation]
    if not rows:
        return None
    srcc = {(row.stage, row.source): row.evaluation.get("srcc") for row in rows if row.evaluation}
    first, last = rows[0], rows[-1]
    parts = [
        {
            "source": source,
            "last": value,
            "first": None if stage == first.stage else srcc.get((first.stage, source)),
        }
        for (stage, source), value in srcc.items()
        if stage == last.stage and value is not None
    ]
    names = {"first": str(first.entry["name"]), "last": str(last.entry["name"])}
    return {"parts": parts, **names} if parts else None


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """What a reader asks first about a run, as far as the files tell."""
    model, sources = run.config.get("model") or {}, _sources_of(run)
    facts = [("Data", _listed(source.get("dataset") for source in sources))]
    if model:
        facts.append(("Started from", model.get("path") or "random weights"))
    facts += [
        ("Prompt", _listed(source.get("template") for source in sources)),
        ("Seed", run.config.get("seed")),
        ("Stages", " → ".join(stage.name for stage in run.stages)),
        ("Duration", table.format_seconds(run.summary.get("seconds"))),
    ]
    return [(name, str(value)) for name, value in facts if value is not None]


def _datasets(run: RunRecord) -> list[DatasetInfo]:
    """The registry's rows of all data sets in the page."""
    shown = (p for stage in run.stages for part in stage.predictions.values() for p in part)
    names = {prediction.dataset for prediction in shown}
    names |= {source["dataset"] for source in _sources_of(run) if "dataset" in source}
    return [dataset_info(name) for name in sorted(names)]


def _sources_of(run: RunRecord) -> list[dict[str, Any]]:
    """The data sources of the configuration, as far as the file tells."""
    sources = (run.config.get("data") or {}).get("sources")
    found = sources.values() if isinstance(sources, dict) else ()
    return [source for source in found if isinstance(source, dict)]


def _listed(names: Iterable[Any]) -> str | None:
    """Each name once, or None if there is none."""
    return ", ".join(dict.fromkeys(str(name) for name in names if name)) or None


def _agreement(index: int, stage: StageRecord, source: str) -> dict[str, Any]:
    """Scatter, distributions and their captions for one source tested after one stage."""
    predictions = stage.predictions[source]
    info, colour = dataset_info(predictions[0].dataset), plots.stage_colour(index)
    scores, labels = plots.scores_and_labels(predictions)
    options = {"label_range": info.label_range, "colour": colour}
    return {
        "stage": _title(stage, source),
        "colour": colour,
        "label_name": info.label_name,
        "shown": len(scores),
        "failed": len(predictions) - len(scores),
        "line": plots.fitted_line(scores, labels),
        "scatter": Markup(plots.scatter(predictions, **options)),
        "distributions": Markup(plots.distributions(predictions, **options)),
    }


def _title(stage: StageRecord, source: str) -> str:
    return f"{stage.name}, {source}" if source else stage.name


def _training(index: int, stage: StageRecord) -> dict[str, Any]:
    """Curves and sampled answers of one stage."""
    colour = plots.stage_colour(index)
    main, other = curves.panels(stage.series, colour=colour)
    return {
        "stage": stage.name,
        "colour": colour,
        "steps": stage.summary.get("steps"),
        "seconds": stage.summary.get("seconds"),
        "panels": main,
        "other_panels": other,
        "rollouts": stage.rollouts,
    }


def _gallery(workdir: Path, index: int, stage: StageRecord, source: str) -> dict[str, Any]:
    """The groups of pictures of one test with everything their cards show."""
    predictions = stage.predictions[source]
    groups = gallery.choose_groups(predictions)
    return {
        "stage": _title(stage, source),
        "colour": plots.stage_colour(index),
        "count": len(predictions),
        "groups": [
            {
                "title": group.title,
                "caption": group.caption,
                "cards": [_card(workdir, prediction) for prediction in group.predictions],
            }
            for group in groups
        ],
    }


def _card(workdir: Path, prediction: Prediction) -> dict[str, Any]:
    low, high = dataset_info(prediction.dataset).label_range
    label, score = prediction.label, prediction.score
    return {
        "thumbnail": gallery.thumbnail(workdir, prediction.image),
        "name": Path(prediction.image).name,
        "distortion": (prediction.distortion or "").replace("_", " "),
        "rationale": gallery.rationale(prediction.text),
        "label": label,
        "score": score,
        "error": prediction.error,
        "difference": None if score is None else _signed(score - label),
        "label_place": _percent(label, low, high),
        "score_place": None if score is None else _percent(score, low, high),
        "low": f"{low:g}",
        "high": f"{high:g}",
    }


def _signed(value: float) -> str:
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def _percent(value: float, low: float, high: float) -> float:
    """Place on the card's scale; a number beyond its ends stands at the end."""
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)


def _sources(workdir: Path, manifest: Path | None) -> list[dict[str, str]]:
    """Name, licence and origin of every picture that a manifest lists, and the split it is in."""
    if manifest is None:
        found = sorted((workdir / "data").glob("**/manifest.json"))
        manifest = found[0] if found else None
    if manifest is None:
        return []
    scenes = read_json(manifest).get("scenes", [])
    if not isinstance(scenes, list) or not all(isinstance(scene, Mapping) for scene in scenes):
        raise UserError(f"{manifest}: expected 'scenes' to be a list of objects")
    return [
        {
            "name": str(scene.get("name", "?")),
            "licence": str(scene.get("licence", "not stated")),
            "origin": " · ".join(str(scene[key]) for key in ("source", "split") if key in scene),
        }
        for scene in scenes
    ]
