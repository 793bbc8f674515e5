"""Writes a CLIP tokenizer that spells words symbol by symbol, for models of a few symbols."""

import json
from collections.abc import Sequence
from pathlib import Path

_START, _END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = 2  # the last of the vocabulary, in this order: start, end (which also pads)


def write_tokenizer(folder: Path, symbols: Sequence[str], max_length: int) -> None:
    """Writes the files that transformers' `CLIPTokenizer` opens.

    Args:
      folder: made here; must not exist.
      symbols: what words are spelt with; each is a token within a word and one at its end, so the
        vocabulary has 2 * len(symbols) + SPECIAL_TOKENS entries. Others are read as the end token.
      max_length: tokens of a prompt, start and end included.
    """
    folder.mkdir()
    tokens = [*symbols, *(f"{x}</w>" for x in symbols), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
