"""Real kernels, timed: reading and writing with the weights of each format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from lmcompress.errors import ParameterError
from lmcompress.experiments.subjects import measure
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Flag, Length, ModelName, Sample, Whole, one_of
from lmcompress.prune.pattern import NofM
from lmcompress.records import Experiment

if TYPE_CHECKING:
    from torch import nn

cost = lazy("lmcompress.cost")
data = lazy("lmcompress.data")
kernels = lazy("lmcompress.quantize.kernels")
magnitude = lazy("lmcompress.prune.magnitude")
mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
torch = lazy("torch")
transformers = lazy("transformers")

REPEATS = 10


ONE = ["device", "model", "kernel", "batch"]  # what a speed is of


# Sizes of the released configurations of TinyLlama (arXiv:2401.02385) and Llama 2 (arXiv:2307.09288): the family of the
# embedded model, so that only the size differs.
SHAPES = {
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
}


KERNELS = ("int8", "int4", "2:4")  # beside bf16, the model as it is
Kernel = Literal["bf16", "int8", "int4", "2:4"]


ShapeName = Annotated[str, one_of(SHAPES)]
"""One of :data:`SHAPES`."""


class Timed(Experiment):
    """Tokens per second of one kernel at one batch: medians of up to :data:`REPEATS` generations, and the slowest and
    the fastest decoding among them.

    ``kernel``: bf16 (the model as it is), int8, int4 or 2:4 (magnitude-pruned first). ``compilation``: which of
    several; each tunes the same kernels anew, and what it finds differs far more than repetitions do. Where a kernel
    cannot be had the record holds the reason under ``refused``.
    """

    timed: ClassVar[bool] = True

    kernel: Kernel
    batch: Count
    prompt: Count
    new_tokens: Count
    compile: Flag
    compilation: Whole = 0
    group: Literal[32, 64, 128] = 64

    def speed_of(self, model: Any) -> dict[str, Any]:
        """Put the kernel into ``model`` and time it; the result of the run."""
        numbers = sum(value.numel() for value in model.parameters())
        try:
            if self.kernel == "2:4":
                weights = {name: layer.weight for name, layer in models.block_linears(model).items()}
                mask.apply(model, magnitude.per_row(weights, NofM(2, 4)))
            if self.kernel != "bf16":
                kernels.use_kernel(model, self.kernel, group=self.group)
        except (ParameterError, RuntimeError) as error:
            return {"refused": str(error).splitlines()[0]}
        limits = cost.ceilings(model.device) if model.device.type == "cuda" else None
        found = kernels.generate_speed(
            model,
            self.batch,
            self.prompt,
            self.new_tokens,
            compile=self.compile,
            repeats=REPEATS,
            bandwidth=limits.copy_bytes_per_s if limits else None,
        )
        torch.compiler.reset()
        return {
            "refused": None,
            "parameters": numbers,
            "prefill": found.prefill_tokens_per_s,
            "decode": found.decode_tokens_per_s,
            "decode_low": found.decode_slowest,
            "decode_high": found.decode_fastest,
            "peak_bytes": found.peak_bytes,
            "weight_bytes": found.weight_bytes,
            "bandwidth_share": found.bandwidth_share,
        }


class Speed(Timed):
    """A :class:`Timed` model and the loss of the very weights that were timed, on the test split of ``data``."""

    model: ModelName
    data: CorpusName
    length: Length
    test: Sample

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def run(self) -> dict[str, Any]:
        model, tokenizer = models.load(self.model, dtype="bf16")
        found = self.speed_of(model)
        if found["refused"] is not None:
            return found
        windows = data.windows(self.data, tokenizer, "test", self.length, self.test)
        return found | {"loss": float(measure(model, data.batches(windows, 4)).losses.mean())}


class ShapeSpeed(Timed):
    """A :class:`Timed` Llama of the sizes of ``shape``, whose weights are random: for its speed alone."""

    shape: ShapeName

    def assets(self) -> list[tuple[str, str]]:
        return []

    def run(self) -> dict[str, Any]:
        config = transformers.LlamaConfig(
            **SHAPES[self.shape], max_position_embeddings=self.prompt + self.new_tokens
        )
        with torch.device(models.default_device()):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return self.speed_of(model.eval().requires_grad_(False))
