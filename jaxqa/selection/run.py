"""Best of N: candidates of each prompt are made or read, scored, and the best is chosen.

All prompts go through a round together: first every image of the round is made, then every image
is scored, so that generator and scorer each run without interruption.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxqa.errors import UserError
from jaxqa.selection import making
from jaxqa.selection.candidates import Candidate, Selection, plain_score
from jaxqa.selection.generators import Generator
from jaxqa.selection.journal import Journal
from jaxqa.selection.making import Task
from jaxqa.selection.panel import Panel
from jaxqa.selection.prompt_sets import PromptSet
from jaxqa.selection.reflection import WORST, Reflection

Watch = Callable[[str, int, int], None]
"""Called after each step: what is done, how many, of how many. It may raise, to stop the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Makers:
    """What makes images.

    Attributes:
      generator: makes them from a text; None where all candidates are there already.
      editor: makes them from the best image so far, in rounds of reflection; None leaves these
        rounds to the generator.
      candidates: of each prompt, in the first round.
      seed: candidate `number` is made with `seed + number`, whatever its prompt.
      jobs: images that are made at a time, each in a thread of its own; it changes none. More than
        one is for commands, and for functions that may be called so.
    """

    generator: Generator | None = None
    editor: Generator | None = None
    candidates: int = 4
    seed: int = 0
    jobs: int = 1

    def __post_init__(self):
        for name in ("candidates", "jobs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected at least 1")

    def settings(self) -> dict[str, Any]:
        """What the images depend on."""
        return {
            "generator": self.generator.description if self.generator else None,
            "editor": self.editor.description if self.editor else None,
            "candidates": self.candidates if self.generator else None,
            "seed": self.seed,
        }


def best_of_n(
    prompts: Sequence[PromptSet],
    panel: Panel,
    folder: Path,
    *,
    makers: Makers | None = None,
    reflection: Reflection | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    watch: Watch = lambda what, done, total: None,
) -> list[Selection]:
    """The candidates of each prompt with their scores; images and journal go to `folder`.

    Nothing else is written; see `outputs.write`.

    Args:
      prompts: with their images, or to make images from.
      panel: who judges.
      folder: of the run.
      makers: what makes images.
      reflection: rounds after the first.
      settings: what else the result depends on, such as a digest of the model.
      resume: go on where an earlier run in `folder` stopped; what it could not make is tried again.
      watch: see `Watch`.

    Raises:
      UserError: options that make no sense together, or a folder that is in use.
    """
    makers, reflection = makers or Makers(), reflection or Reflection()
    _check(prompts, panel, makers, reflection)
    everything = {
        **makers.settings(),
        "reflection": dataclasses.asdict(reflection),
        "judges": {
            judge.name: [judge.scorer.name, dataclasses.asdict(judge.question), judge.weight]
            for judge in panel.judges
        },
        **(settings or {}),
    }
    selections = [Selection(prompts=prompt) for prompt in prompts]
    with Journal(folder, _plain(everything), resume=resume) as journal:
        _Run(panel, folder, makers, reflection, journal, watch).rounds(selections)
    return selections


@dataclasses.dataclass(frozen=True)
class _Run:
    panel: Panel
    folder: Path
    makers: Makers
    reflection: Reflection
    journal: Journal
    watch: Watch

    def rounds(self, selections: Sequence[Selection]) -> None:
        self._first(selections)
        self._score(selections)
        for number in range(1, self.reflection.rounds + 2):
            going = self._next(selections, number)
            if not going:
                return
            self._make(going)
            self._score([selection for selection, _ in going])

    def _first(self, selections: Sequence[Selection]) -> None:
        wanted = []
        for selection in selections:
            if selection.prompts.images:
                self._take(selection)
            else:
                plan = self._plans(selection, self.makers.candidates, selection.prompts.prompt, 0)
                wanted.append((selection, plan))
        self._make(wanted)

    def _take(self, selection: Selection) -> None:
        """The images that are there already."""
        key, prompt = selection.prompts.key, selection.prompts.prompt
        for number, path in enumerate(selection.prompts.images):
            known = self.journal.recall(key, number)
            if known is not None and known.path != path:
                raise UserError(
                    f"prompt {key}: image {number} was {known.path} and is {path}: the images "
                    "changed since the run began; give another --output"
                )
            candidate = known or Candidate(number=number, round=0, path=path, instruction=prompt)
            selection.candidates.append(candidate)
            if known is None:
                self.journal.add_image(key, candidate)

    def _plans(
        self, selection: Selection, count: int, instruction: str, number: int
    ) -> list[Candidate]:
        """Candidates that are still to be made."""
        first = len(selection.candidates)
        return [
            Candidate(
                number=place,
                round=number,
                path=None,
                instruction=instruction,
                seed=self.makers.seed + place,
            )
            for place in range(first, first + count)
        ]

    def _next(
        self, selections: Sequence[Selection], number: int
    ) -> list[tuple[Selection, list[Candidate]]]:
        """What is to be made in a round of reflection; says of the others why they stop."""
        weights, going = self.panel.weights, []
        made = sum(len(selection.candidates) for selection in selections)
        for selection in selections:
            if selection.stopped is not None or not self.reflection.rounds:
                continue
            selection.stopped = self.reflection.why_stop(selection, weights, number)
            best = selection.best(weights)
            if selection.stopped is not None or best is None:
                continue
            prompt = selection.prompts.prompt
            instruction = self.reflection.instruction(prompt, best, weights, number)
            count = self.reflection.candidates
            if instruction is None:
                selection.stopped = "the judge gave no reasons"
            elif self.reflection.budget and made + count > self.reflection.budget:
                selection.stopped = "the budget is spent"
            else:
                made += count
                going.append((selection, self._plans(selection, count, instruction, number)))
        return going

    def _make(self, wanted: Sequence[tuple[Selection, list[Candidate]]]) -> None:
        owners, tasks = [], []
        for selection, plan in wanted:
            best = selection.best(self.panel.weights)
            start = Path(best.path).absolute() if best is not None and best.path else None
            tasks += [self._task(selection.prompts.key, candidate, start) for candidate in plan]
            owners += [selection] * len(plan)
        made: dict[int, Candidate] = {}
        with contextlib.closing(making.make(tasks, self.journal, self.makers.jobs)) as steps:
            for place, candidate in steps:
                made[place] = candidate
                self.watch("make", len(made), len(tasks))
        for place, selection in enumerate(owners):
            selection.candidates.append(made[place])

    def _task(self, key: str, wanted: Candidate, start: Path | None) -> Task:
        edits = self.makers.editor is not None and wanted.round > 0
        maker = self.makers.editor if edits else self.makers.generator
        assert maker is not None
        return Task(
            key=key,
            wanted=dataclasses.replace(wanted, start=str(start) if edits and start else None),
            maker=maker,
            output=self.folder / "candidates" / key / "samples" / f"{wanted.number:05d}.png",
        )

    def _score(self, selections: Iterable[Selection]) -> None:
        left = [
            (judge, selection, candidate)
            for judge in self.panel.judges
            for selection in selections
            for candidate in selection.candidates
            if candidate.path is not None and judge.name not in candidate.scores
        ]
        done = 0
        for judge in self.panel.judges:
            asked = [(s.prompts, candidate) for j, s, candidate in left if j is judge]
            found = judge.stream(
                [candidate.path for _, candidate in asked], [p.prompt for p, _ in asked]
            )
            for place, score in found:
                prompts, candidate = asked[place]
                candidate.scores[judge.name] = plain_score(score)
                self.journal.add_score(
                    prompts.key, candidate.number, judge.name, candidate.scores[judge.name]
                )
                done += 1
                self.watch("score", done, len(left))


def _check(
    prompts: Sequence[PromptSet], panel: Panel, makers: Makers, reflection: Reflection
) -> None:
    """Refuse now what a run would find out hours later."""
    if len({prompt.key for prompt in prompts}) < len(prompts):
        raise UserError("two prompts have one key; expected each once")
    if makers.generator is None and any(not prompt.images for prompt in prompts):
        lacking = next(prompt for prompt in prompts if not prompt.images)
        raise UserError(f"prompt {lacking.key} has no images, and there is no generator")
    first = sum(makers.candidates for prompt in prompts if not prompt.images)
    if 0 < reflection.budget < first:
        raise UserError(
            f"budget is {reflection.budget} images, and the first round alone makes {first}; raise "
            "it, or make fewer candidates"
        )
    if not reflection.rounds:
        return
    if makers.generator is None and makers.editor is None:
        raise UserError("reflection makes images: give a generator or an editor")
    names = [judge.name for judge in panel.judges if judge.weight]
    if reflection.judge not in (WORST, *panel.weights):
        raise UserError(
            f"reflection is on {reflection.judge!r}; expected {WORST} or one of {', '.join(names)}"
        )
    if all(judge.question.mode == "fast" for judge in panel.judges):
        raise UserError("reflection needs reasons, and mode 'fast' gives none; use 'think'")


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON keeps them; an infinite bound is written as text."""
    return {
        name: {k: str(v) if isinstance(v, float) else v for k, v in value.items()}
        if name == "reflection"
        else value
        for name, value in settings.items()
    }
