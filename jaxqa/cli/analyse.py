"""Pictures of what models do, each with its numbers beside it, from the answers of an evaluation.

`jaxqa evaluate` keeps them as `TABLE.answers/MODEL/DATASET.SPLIT.jsonl`.
"""

import argparse
import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from jaxqa.cli.errors import run_door
from jaxqa.cli.model_names import name_of_directory
from jaxqa.data.prompts import get_template
from jaxqa.data.registry import dataset_info
from jaxqa.distill.texts import TextPolicy, embed_texts
from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import (
    attention_share,
    comparison,
    domain_map,
    histograms,
    model_size,
    pictures,
    reward_shapes,
    text_space,
    token_entropy,
)
from jaxqa.evaluation.analysis.replay import Replay
from jaxqa.evaluation.answer_store import read_answers
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.models.clip import weights
from jaxqa.models.clip.model import Clip
from jaxqa.models.clip.tokenizer import load_tokenizer
from jaxqa.train.json_lines import replacing

_NAMED = re.compile(r"([^=/]+)=(.+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the door; return the exit status."""
    return run_door(analyse, argv)


def analyse(argv: Sequence[str] | None) -> int:
    """Draw one picture.

    Raises:
      UserError: bad flags, answers, model or place to write.
    """
    flags = _parser().parse_args(argv)
    if flags.analysis != "compare":
        pictures.check_path(flags.output)
    written = _ANALYSES[flags.analysis][0](flags)
    print(f"wrote {flags.output}\nwrote {written}")
    return 0


def _histograms(flags: argparse.Namespace) -> Path:
    models = {name: predictions for name, (_, predictions) in _answers(flags.answers).items()}
    datasets = {p.dataset for predictions in models.values() for p in predictions}
    if len(datasets) != 1:
        raise UserError(f"answers to {', '.join(sorted(datasets))}: compare one data set at a time")
    info = dataset_info(datasets.pop())
    figure, rows = histograms.draw(models, info.label_range, bins=flags.bins)
    return pictures.write(flags.output, figure, rows)


def _rewards(flags: argparse.Namespace) -> Path:
    return pictures.write(flags.output, *reward_shapes.draw())


def _size(flags: argparse.Namespace) -> Path:
    try:
        text = flags.table.read_text(encoding="utf-8")
        pairs = [item.rpartition("=") for item in flags.parameters]
        parameters = {name: float(count) for name, _, count in pairs}
    except OSError as error:
        raise UserError(f"cannot read {flags.table}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"--parameters: expected NAME=NUMBER, for example tatar=7e9 ({error})"
        ) from error
    rows = list(csv.DictReader(text.splitlines()))
    needed = {"protocol", "model", "dataset", "metric", "value"}
    if not rows or not needed <= rows[0].keys():
        raise UserError(f"{flags.table}: expected a CSV table of `jaxqa evaluate`")
    drawn = model_size.draw(rows, parameters, dataset=flags.dataset, metric=flags.metric)
    return pictures.write(flags.output, *drawn)


def _entropy(flags: argparse.Namespace) -> Path:
    settings, predictions = _one(flags.answers)
    found = [p for p in predictions if flags.image in p.image and p.text]
    if not found:
        raise UserError(f"no answered image whose path contains {flags.image!r}")
    facts = _replay(flags, settings).token_facts(found[0])
    title = f"{Path(found[0].image).name}: label {found[0].label:g}, score {found[0].score}"
    return pictures.write(flags.output, *token_entropy.draw(facts, title=title, top=flags.top))


def _attention(flags: argparse.Namespace) -> Path:
    settings, predictions = _one(flags.answers)
    scored = [p for p in predictions if p.score is not None][: flags.limit]
    if not scored:
        raise UserError("no image has a score, so there is no score to trace")
    replay = _replay(flags, settings)
    shares = [replay.attention_shares(prediction) for prediction in scored]
    drawn = attention_share.draw(shares, title=f"{name_of_directory(flags.model)}, at the score")
    return pictures.write(flags.output, *drawn)


def _domains(flags: argparse.Namespace) -> Path:
    import numpy as np

    answers = list(_answers(flags.answers).values())
    replay = _replay(flags, answers[0][0])
    chosen = [
        p for _, predictions in answers for p in [q for q in predictions if q.text][: flags.limit]
    ]
    features = [replay.features(prediction) for prediction in chosen]
    visual, textual = (np.stack(side) for side in zip(*features, strict=True))
    return pictures.write(flags.output, *domain_map.draw(chosen, visual, textual, seed=flags.seed))


def _texts(flags: argparse.Namespace) -> Path:
    models = {
        name: [p for p in predictions if text_space.rationale(p.text)][: flags.limit]
        for name, (_, predictions) in _answers(flags.answers).items()
    }
    config, params = weights.load_model_directory(flags.encoder, dtype="float32")
    tokenizer, model = load_tokenizer(flags.encoder, config), Clip(config=config)
    embeddings = {
        name: embed_texts(
            model,
            params,
            tokenizer,
            [text_space.rationale(prediction.text) for prediction in predictions],
            policy=flags.long_texts,
        )
        for name, predictions in models.items()
    }
    return pictures.write(flags.output, *text_space.draw(models, embeddings, seed=flags.seed))


def _compare(flags: argparse.Namespace) -> Path:
    if flags.output.suffix != ".html":
        raise UserError(f"{flags.output}: expected a page that ends in .html")
    models = {name: predictions for name, (_, predictions) in _answers(flags.answers).items()}
    items, total = comparison.select(models, limit=flags.limit)
    data = flags.output.with_suffix(".json")
    text = json.dumps(items, indent=2, ensure_ascii=False)
    for path, content in ((flags.output, comparison.render(items, total)), (data, text)):
        with replacing(path) as file:
            file.write(content.encode("utf-8", "backslashreplace"))
    return data


_ANALYSES: dict[str, tuple[Callable[[argparse.Namespace], Path], str]] = {
    "histograms": (_histograms, "predicted scores against labels, with their distances"),
    "rewards": (_rewards, "what the papers' rewards pay for an error"),
    "size": (_size, "accuracy against the number of parameters"),
    "entropy": (_entropy, "a rationale, its tokens shaded by entropy"),
    "attention": (_attention, "what the score token attends to, layer by layer"),
    "domains": (_domains, "t-SNE of visual tokens and of reasoning text across data sets"),
    "texts": (_texts, "rationales of several models in CLIP's text space, by label; their lengths"),
    "compare": (_compare, "a page of several models' rationales side by side"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("analyse", description=__doc__, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    flags = {
        name: kinds.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, (_, text) in _ANALYSES.items()
    }
    for name, kind in flags.items():
        page = "page (.html)" if name == "compare" else f"picture ({', '.join(pictures.SUFFIXES)})"
        kind.add_argument("--output", required=True, type=Path, metavar="FILE", help=page)
        if name not in ("rewards", "size"):
            kind.add_argument(
                "--answers",
                required=True,
                nargs="+",
                action="extend",
                metavar="[NAME=]FILE",
                help="answers that an evaluation kept; called after their folder",
            )
        if name in ("entropy", "attention", "domains"):
            kind.add_argument("--model", required=True, type=Path, help="model directory")
            kind.add_argument("--prompt", help="prompt that was answered (default: as recorded)")
            kind.add_argument("--max_pixels", type=int, help="as in the evaluation (default)")
        if name in ("attention", "domains", "texts", "compare"):
            default = {"compare": 24, "texts": 500}.get(name, 100)
            kind.add_argument(
                "--limit", type=int, default=default, help=f"images of a file (default {default})"
            )
    flags["histograms"].add_argument("--bins", type=int, default=40, help="default 40")
    flags["entropy"].add_argument("--image", default="", help="part of the image's path")
    flags["entropy"].add_argument(
        "--top", type=float, default=0.2, help="share of tokens that are framed (default 0.2)"
    )
    for name in ("domains", "texts"):
        flags[name].add_argument("--seed", type=int, default=0, help="of t-SNE (default 0)")
    flags["texts"].add_argument(
        "--encoder", required=True, type=Path, help="directory of a CLIP or SigLIP, both towers"
    )
    flags["texts"].add_argument(
        "--long_texts",
        choices=get_args(TextPolicy),
        default="sentences",
        help="longer than the tower's row: split after sentences and average, or cut (default "
        "sentences)",
    )
    size = flags["size"]
    size.add_argument("--table", required=True, type=Path, help="CSV table of `jaxqa evaluate`")
    size.add_argument("--parameters", required=True, nargs="+", metavar="NAME=NUMBER")
    size.add_argument("--dataset", default="average", help="column (default average)")
    size.add_argument("--metric", default="srcc", choices=("plcc", "srcc"), help="default srcc")
    return parser


def _answers(texts: Sequence[str]) -> dict[str, tuple[dict[str, Any], list[Prediction]]]:
    """Name -> settings and answers; files of one model under one folder are called after it."""
    found: dict[str, tuple[dict[str, Any], list[Prediction]]] = {}
    for text in texts:
        match = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, path = match.groups() if match else (Path(text).parent.name or text, text)
        if name in found:
            name = f"{name}/{Path(path).stem}"
        if name in found:
            raise UserError(f"--answers: {name} is given twice; name them, as in OTHER={path}")
        found[name] = read_answers(Path(path))
    return found


def _one(texts: Sequence[str]) -> tuple[dict[str, Any], list[Prediction]]:
    if len(texts) != 1:
        raise UserError(f"--answers: expected one file, found {len(texts)}")
    return next(iter(_answers(texts).values()))


def _replay(flags: argparse.Namespace, settings: dict[str, Any]) -> Replay:
    """The model with the prompt and the limit on pixels that the answers were made with."""
    from jaxqa import sharding
    from jaxqa.scoring import loading

    prompt = flags.prompt or settings.get("prompt")
    if prompt is None:
        raise UserError("the answers do not say which prompt they answer: give --prompt=NAME")
    max_pixels = flags.max_pixels or settings.get("max_pixels")
    mesh = sharding.make_mesh(sharding.MeshConfig())
    model, encoder, params = loading.load_model(flags.model, mesh=mesh, max_pixels=max_pixels)
    return Replay(model=model, encoder=encoder, params=params, template=get_template(prompt))
