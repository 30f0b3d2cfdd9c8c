"""Tiny assets in a folder, as local names for the library: a model with a tokenizer, a corpus, a classification set."""

import random
from pathlib import Path

from tiny import VOCABULARY, tiny_model
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

_WORDS = ("a tree", "the sea", "one ship", "old town", "red light", "no rain", "far hill", "my friend")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; ids 0, 1 and 2 are padding, beginning and end, as in ``tiny.CONFIGS``."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2} | {letter: index + 3 for index, letter in enumerate(letters)}
    assert len(words) <= VOCABULARY
    tokenizer = Tokenizer(WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
    )


def tiny_model_folder(folder: Path, family: str = "llama") -> str:
    """A random model of a family in ``tiny.FAMILIES`` with its tokenizer, saved; returns the folder's name."""
    tiny_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def tiny_corpus(folder: Path, documents: int = 200) -> str:
    """A folder with a file of documents in blocks between blank lines, no two alike; returns the folder's name."""
    source = random.Random(0)
    texts = [f"{number}. " + ", ".join(source.choices(_WORDS, k=8)) for number in range(documents)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return str(folder)


def tiny_classes(folder: Path, texts: int = 120) -> str:
    """A folder a class with a file a text; the words tell the class."""
    for index in range(texts):
        words = _WORDS[:4] if index % 2 else _WORDS[4:]
        place = folder / ("odd" if index % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:03d}.txt").write_text(
            f"{index} " + " ".join(random.Random(index).choices(words, k=4))
        )
    return str(folder)
