"""Python functions and diffusers pipelines that make images.

diffusers and PyTorch are loaded only when a pipeline is.
"""

import contextlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from jaxqa.data import images
from jaxqa.errors import UserError
from jaxqa.scoring import image_inputs
from jaxqa.selection import arrays
from jaxqa.selection.generators import GenerationError, Request


class Function:
    """A Python function: `f(prompt=..., seed=..., n=..., image=..., output=...)`.

    It is given those of these that it has parameters for, and returns an image (PIL, array, bytes,
    path) or, having written one to `output`, None.
    """

    def __init__(self, function: Callable[..., Any], *, name: str = "", edits: bool = False):
        """Take a function.

        Args:
          function: see above.
          name: what a run's settings remember; the function's own name by default.
          edits: whether it starts from an image; then it needs a parameter `image`.

        Raises:
          UserError: it has no parameter `prompt`, or another one that cannot be filled in.
        """
        self._function = function
        self._accepted = _accepted(function, {"prompt"} | ({"image"} if edits else set()))
        self.description = f"callable={name or getattr(function, '__qualname__', repr(function))}"

    def make(self, request: Request, output: Path) -> None:
        """Call the function; see `Generator`."""
        known = {
            "prompt": request.prompt,
            "seed": request.seed,
            "n": request.number,
            "image": request.image,
            "output": output,
        }
        given = {name: value for name, value in known.items() if name in self._accepted}
        with _failures():
            _save(self._function(**given), output)

    def cancel(self) -> None:
        """Nothing: Python code cannot be stopped from outside; see `Generator`."""


class Pipeline:
    """A pipeline of diffusers, or any object that is called the same way.

    An image's noise comes from a random generator of its own, which its seed names, so it is the
    same picture alone or in a call for several; sums of another shape round differently, so single
    values may differ in the last bit of a pixel.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        edits: bool = False,
        at_once: int = 1,
    ):
        """Take a pipeline that is loaded; `load_pipeline` loads one.

        Args:
          pipeline: called with prompt, generator, num_images_per_prompt and, of editors, image;
            its result has `images`. Of several images, generator is a list; of those of one prompt
            num_images_per_prompt says how many, else prompt and image are lists.
          options: what else it is called with, such as num_inference_steps.
          name: what a run's settings remember.
          edits: whether it starts from an image.
          at_once: images of one call, at most.

        Raises:
          UserError: `at_once` is not at least 1.
        """
        if at_once < 1:
            raise UserError(f"{at_once} images in a call of a pipeline; expected at least 1")
        self._pipeline, self._options, self._edits = pipeline, dict(options or {}), edits
        self.at_once = at_once
        named = ", ".join(f"{key}={value!r}" for key, value in sorted(self._options.items()))
        self.description = f"diffusers={name or type(pipeline).__name__}({named})"

    def make(self, request: Request, output: Path) -> None:
        """Call the pipeline; see `Generator`."""
        self.make_several([request], [output])

    def make_several(self, requests: Sequence[Request], outputs: Sequence[Path]) -> None:
        """Call the pipeline once for all; see `BatchGenerator`."""
        torch = _import("torch", "a diffusers pipeline draws its noise with it")
        noise = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        given = self._asked(requests)
        with _failures():
            made = self._pipeline(generator=noise if len(noise) > 1 else noise[0], **given).images
            for picture, output in zip(made, outputs, strict=True):
                _save(picture, output)

    def _asked(self, requests: Sequence[Request]) -> dict[str, Any]:
        """What the pipeline is called with, except for the noise."""
        given, starts = dict(self._options), [request.image for request in requests]
        if self._edits:
            pictures = {s: Image.fromarray(images.decode(s)) for s in starts if s is not None}
            starts = [s and pictures[s] for s in starts]
        first = requests[0]
        if all((r.prompt, r.image) == (first.prompt, first.image) for r in requests):
            prompt, start, each = first.prompt, starts[0], len(requests)
        else:
            prompt, start, each = [request.prompt for request in requests], starts, 1
            for name, value in given.items():  # pipelines want as many as there are prompts
                if name.startswith("negative_prompt") and isinstance(value, str):
                    given[name] = [value] * len(requests)
        if self._edits and None not in starts:
            given["image"] = start
        return {"prompt": prompt, "num_images_per_prompt": each, **given}

    def cancel(self) -> None:
        """Nothing: Python code cannot be stopped from outside; see `Generator`."""


def load_function(text: str, *, edits: bool = False) -> Function:
    """The function `MODULE:NAME`.

    Raises:
      UserError: it is not there.
    """
    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise UserError(f"callable {text!r}; expected MODULE:FUNCTION")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"callable {text!r}: {error}") from error
    if not callable(function):
        raise UserError(f"callable {text!r} is a {type(function).__name__}, not a function")
    return Function(function, name=text, edits=edits)


def load_pipeline(
    path: str,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "",
    edits: bool = False,
    at_once: int = 1,
) -> Pipeline:
    """The pipeline in a folder, on a device; half precision on a GPU, single on a CPU.

    `at_once` images, at most, are made in one call.

    Raises:
      UserError: diffusers is missing, or there is no pipeline.
    """
    diffusers = _import("diffusers", "`pip install 'jaxqa[diffusers]'`")
    torch = _import("torch", "diffusers runs on it")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not Path(path).is_dir():
        raise UserError(f"{path} is not a folder; expected a pipeline saved by save_pretrained")
    kind = diffusers.AutoPipelineForImage2Image if edits else diffusers.DiffusionPipeline
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    try:
        pipeline = kind.from_pretrained(path, dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no pipeline of diffusers: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return Pipeline(
        pipeline.to(device), options=options, name=str(path), edits=edits, at_once=at_once
    )


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What user code raises when it cannot go on with one image; its bugs are left alone."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        detail = " ".join(str(error).split()) or "no message"
        raise GenerationError(f"{type(error).__name__}: {detail}") from error


def _accepted(function: Callable[..., Any], needed: set[str]) -> set[str]:
    """Which of a request's fields a function takes by name.

    Raises:
      UserError: it does not take those that are needed, or needs others.
    """
    known = {"prompt", "seed", "n", "image", "output"}
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return known
    accepted = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY} & known
    unknown = [
        p.name
        for p in parameters
        if p.name not in accepted and p.default is p.empty and p.kind is not p.VAR_POSITIONAL
    ]
    if unknown or not needed <= accepted:
        raise UserError(
            f"callable with parameters {', '.join(p.name for p in parameters) or '(none)'}; "
            f"expected {', '.join(sorted(needed))}, and perhaps {', '.join(sorted(known - needed))}"
        )
    return accepted


def _save(made: Any, output: Path) -> None:
    """Write an image in any form as PNG; None stands for one that is written already."""
    if made is None:
        if not output.exists():
            raise ValueError("returned None, but wrote no output")
        return
    if isinstance(made, str | os.PathLike | bytes) or isinstance(made, Image.Image):
        picture = made
    else:
        (picture,) = arrays.as_images([made])
    pixels = image_inputs.loader(picture, name="the image that was made")()
    Image.fromarray(pixels).save(output, "PNG")


def _import(name: str, hint: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: {hint}") from error
