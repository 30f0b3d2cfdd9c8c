"""Useful tokens per second of retraining: our packed loop against the official trainer's way with documents.

The official PERP code tokenises a corpus with padding to the longest of each 1,000 documents
(``datasets.map`` in batches, ``padding=True``), cut at the model's length, trains on one document a
sequence with transformers' Trainer (fp16 autocast, AdamW, clipping) and counts padding as tokens. Ours
joins the documents and cuts full windows, and computes in bf16. *Useful* tokens are those of the documents.
Both train the biases and norms of the same model of random weights, the same number of tokens a step:
``--batch`` sequences of the padded length, as many packed windows. Aim: 3 times the useful tokens per
second.

``--documents``: a text file, one document a line. The tokenizer is a byte-level BPE learnt on it.

    git clone https://github.com/ZIB-IOL/PERP    # read, not run: its trainer needs wandb and a hub
    python benchmarks/useful_tokens.py --documents documents.txt --out records
"""

import hashlib
import time
from pathlib import Path

import bench
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedTokenizerFast

from lmcompress.cost import synchronize
from lmcompress.retrain.train import train

CHUNK = 1000  # documents that datasets.map tokenises at a time
LR = 1e-4


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--documents", type=Path, required=True, help="text file, one document a line")
    parser.add_argument(
        "--model", choices=bench.OPT, default="opt-125m", help="shape; the weights are random"
    )
    parser.add_argument("--length", type=int, default=2048, help="longest sequence of the model")
    parser.add_argument("--batch", type=int, default=4, help="documents a step of the official way")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=16384)
    options = parser.parse_args(argv)
    if options.tiny:
        options.model, options.length, options.batch, options.steps = "opt-tiny", 64, 2, 3
        options.repeats, options.vocabulary = 1, 300
    text = options.documents.read_bytes()
    documents = [line.strip() for line in text.decode("utf-8").splitlines() if line.strip()]
    tokenizer = learnt(documents, options.vocabulary)
    padded, packed = (
        padded_documents(documents, tokenizer, options),
        packed_windows(documents, tokenizer, options),
    )
    ways = {"official": lambda: train_padded(padded, options), "ours": lambda: train_packed(packed, options)}
    taken: dict[str, list[tuple[int, int, float]]] = {name: [] for name in ways}
    for turn in range(options.repeats + 1):
        for name, way in ways.items():
            result = way()
            if turn:
                taken[name].append(result)
    rows = []
    for name, results in taken.items():
        rates = sorted(useful / seconds for useful, _, seconds in results)
        useful, computed, seconds = results[0]
        rows.append(
            {
                "model": options.model,
                "code": name,
                "useful tokens/s": rates[len(rates) // 2],
                "low": rates[0],
                "high": rates[-1],
                "all tokens/s": computed / seconds,
                "padding": 1 - useful / computed,
            }
        )
    gain = rows[1]["useful tokens/s"] / rows[0]["useful tokens/s"]
    print(f"{len(documents)} documents, gain {gain:.2f}")
    about = {"count": len(documents), "sha256": hashlib.sha256(text).hexdigest()}
    return bench.finish("useful_tokens", options, rows, documents=about, gain=gain)


def learnt(documents: list[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``size`` entries learnt on the documents."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def padded_documents(documents: list[str], tokenizer, options) -> list[dict[str, list[int]]]:
    """One document a sequence, as ``datasets.map(tokenize, batched=True)`` with ``padding=True`` leaves
    them.
    """
    rows = []
    for start in range(0, len(documents), CHUNK):
        chunk = tokenizer(
            documents[start : start + CHUNK], padding=True, truncation=True, max_length=options.length
        )
        rows += [
            {"input_ids": ids, "attention_mask": real}
            for ids, real in zip(chunk["input_ids"], chunk["attention_mask"], strict=True)
        ]
    return rows


def packed_windows(documents: list[str], tokenizer, options) -> Tensor:
    """Full windows [N, T] of the documents joined by the end token; T is the official way's padded length."""
    ids = [token for ids in tokenizer(documents)["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
    length = min(options.length, len(ids) // options.batch)
    return torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)


def fresh_model(options, dtype: torch.dtype) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The model, and the parameters that both sides train: biases and norms, the official default without
    LoRA.
    """
    shape = bench.OPT[options.model]
    own = {"word_embed_proj_dim": shape["hidden_size"], "vocab_size": options.vocabulary}
    config = OPTConfig(**shape | own, dropout=0.0, max_position_embeddings=options.length, pad_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").to(
        options.device
    )
    model.requires_grad_(False)
    trained = {
        name: value for name, value in model.named_parameters() if "bias" in name or "layer_norm" in name
    }
    for value in trained.values():
        value.requires_grad_(True)
    return model, trained


def train_padded(rows: list[dict], options) -> tuple[int, int, float]:
    """``steps`` of the official recipe, ``Trainer`` settings as in its ``train_on_c4``; (useful, all,
    seconds).

    The trainer's own loop is used, not a copy. fp16 needs a GPU; on a CPU the model is fp32.
    """
    cuda = torch.device(options.device).type == "cuda"
    model, trained = fresh_model(options, torch.float16 if cuda else torch.float32)
    for value in trained.values():
        value.data = value.data.float()
    settings = transformers.TrainingArguments(
        output_dir=str(options.out or "."),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=LR,
        lr_scheduler_type="linear",
        warmup_steps=options.steps // 10,
        weight_decay=0.0,
        fp16=cuda,
        use_cpu=not cuda,
        optim="adamw_torch",
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    trainer = CountingTrainer(model=model, args=settings, train_dataset=rows, data_collator=collate)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    synchronize(options.device)
    return int(trainer.useful), trainer.computed, time.perf_counter() - trainer.start


class CountingTrainer(transformers.Trainer):
    """The trainer as it is, with the tokens of its steps counted and the time of its preparations left out."""

    useful = computed = 0
    start: float | None = None

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *more: object) -> Tensor:
        if self.start is None:
            synchronize(self.args.device)
            self.start = time.perf_counter()
        self.useful = self.useful + inputs["attention_mask"].sum()
        self.computed += inputs["input_ids"].numel()
        return super().training_step(model, inputs, *more)


def collate(rows: list[dict]) -> dict[str, Tensor]:
    """The official trainer's batches: padded to the longest, labels = tokens, padding without a label."""
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {
        key: torch.tensor([row[key] + [0] * (longest - len(row[key])) for row in rows])
        for key in ("input_ids", "attention_mask")
    }
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def train_packed(windows: Tensor, options) -> tuple[int, int, float]:
    """``steps`` of our loop on full windows; (useful, all, seconds), where the first two are the same."""
    cuda = torch.device(options.device).type == "cuda"
    model, trained = fresh_model(options, torch.bfloat16 if cuda else torch.float32)
    report = train(
        model, windows, trained, lr=LR, steps=options.steps, batch_size=options.batch, progress=False
    )
    return report.tokens, report.tokens, report.seconds


if __name__ == "__main__":
    bench.script(main)
