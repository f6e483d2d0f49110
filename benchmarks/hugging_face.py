"""The other side of `against_transformers`: the same weights in `transformers`, on the CPU."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as processing

from jaxqa.models.qwen2_5_vl import weights
from jaxqa.models.qwen2_5_vl.config import Qwen2_5_VLConfig
from jaxqa.typing import Params


def prepare() -> str:
    """Quiet `transformers`, give torch a thread for each core; says how many, and all versions."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    return (
        f"{cores} threads each; jax {jax.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


class HuggingFace:
    """One prompt with one image, and G completions of T tokens."""

    def __init__(
        self,
        config: Qwen2_5_VLConfig,
        params: Params,
        prompt: tuple[np.ndarray, np.ndarray],
        *,
        group: int,
        attention: str,
        compiled: bool = False,
    ):
        """Load the weights; `attention` is "eager" or "sdpa", `compiled` by `torch.compile`."""
        self.config, self.group = config, group
        with tempfile.TemporaryDirectory() as folder:
            weights.save_pretrained(Path(folder) / "model", config, params)
            self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
                Path(folder) / "model", attn_implementation=attention, dtype=torch.float32
            ).eval()
        if compiled:  # what runs for every token; lengths differ, so one program for all
            text = self.model.model.language_model
            text.forward = torch.compile(text.forward, dynamic=True)
        generation = self.model.generation_config
        generation.eos_token_id, generation.pad_token_id = None, 0  # every completion has T tokens
        ids, image = prompt
        self.ids = torch.from_numpy(ids.astype(np.int64))[None]
        processor = processing.Qwen2VLImageProcessorPil(do_resize=False)
        self.pixels = processor(
            images=[image], return_tensors="pt", input_data_format="channels_last"
        )

    def generate(self, length: int, *, greedy: bool = False, static: bool = False) -> Any:
        """G copies of prompt and image, as trainers call it; the tokens [G T]."""
        ids = self.ids.expand(self.group, -1)
        with torch.inference_mode():
            output = self.model.generate(
                **self._inputs(ids, self.group),
                **_options(length, greedy),
                **({"cache_implementation": "static"} if static else {}),
            )
        return output[:, ids.shape[1] :]

    def generate_prefilled(self, length: int, *, greedy: bool = False, static: bool = False) -> Any:
        """The prompt read once, its cache repeated G times, then generation goes on from it."""
        ids = self.ids.expand(self.group, -1)
        with torch.inference_mode():
            self.model.model.rope_deltas = None
            prefilled = self.model(**self._inputs(self.ids, 1), use_cache=True, logits_to_keep=1)
            cache = prefilled.past_key_values
            cache.crop(-1)  # `generate` reads the last token itself
            cache.batch_repeat_interleave(self.group)
            if static:
                cache = self._static(cache, ids.shape[1] + length)
            output = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                **_options(length, greedy),
            )
        return output[:, ids.shape[1] :]

    def step(self, completions: np.ndarray, weights: np.ndarray, *, image_once: bool) -> float:
        """Loss of `loss` below and its gradients, in `parameters.grad`.

        With `image_once` the image is encoded once and its features repeated.
        """
        completions_pt = torch.from_numpy(completions.astype(np.int64))
        ids = torch.cat([self.ids.expand(self.group, -1), completions_pt], dim=1)
        kept = completions.shape[1] + 1
        self.model.zero_grad(set_to_none=True)
        if image_once:
            inputs = self._embedded(ids)
        else:
            self.model.model.rope_deltas = None
            inputs = self._inputs(ids, self.group)
        logits = self.model(**inputs, use_cache=False, logits_to_keep=kept).logits[:, :-1]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        picked = log_probs.gather(2, completions_pt[..., None])[..., 0]
        loss = -(picked * torch.from_numpy(weights)).sum()
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> Params:
        """The last step's gradients, in jaxqa's tree."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.data, parameter.grad = parameter.grad, parameter.data
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_pretrained(folder)
                return weights.load_model_directory(Path(folder))[1]
        finally:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.data, parameter.grad = parameter.grad, parameter.data

    def _static(self, cache: transformers.DynamicCache, length: int) -> transformers.StaticCache:
        """A cache of `length` slots that begins with what another holds."""
        text = self.model.config.get_text_config()
        static = transformers.StaticCache(text, max_cache_len=length)
        for number, layer in enumerate(cache.layers):
            static.update(layer.keys, layer.values, number)
        return static

    def _inputs(self, ids: torch.Tensor, copies: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.config.image_token_id).int(),
            "pixel_values": self.pixels["pixel_values"].repeat(copies, 1),
            "image_grid_thw": self.pixels["image_grid_thw"].repeat(copies, 1),
        }

    def _embedded(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        model, image = self.model.model, ids == self.config.image_token_id
        positions, _ = model.get_rope_index(
            ids,
            image_grid_thw=self.pixels["image_grid_thw"].repeat(len(ids), 1),
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=image.int(),
        )
        features = model.visual(
            self.pixels["pixel_values"], self.pixels["image_grid_thw"]
        ).pooler_output
        embedded = model.get_input_embeddings()(ids)
        repeated = features.repeat(len(ids), 1).to(embedded.dtype)
        embedded = embedded.masked_scatter(image[..., None], repeated)
        return {"inputs_embeds": embedded, "position_ids": positions}


def _options(length: int, greedy: bool) -> dict[str, Any]:
    """The whole distribution at temperature 1, or the best token."""
    if greedy:
        return {"max_new_tokens": length, "do_sample": False}
    return {
        "max_new_tokens": length,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }
