"""CLIP's tokenizer: prompts to token ids, from a folder of any age, by the library `tokenizers`."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from osed_jax.errors import UserError

_WHOLE = "tokenizer.json"  # all that transformers 5 writes; before there were the two others
_PARTS = ("vocab.json", "merges.txt")
_SETTINGS = "tokenizer_config.json"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# How CLIP cuts a text into words; as in its tokenizer.json (transformers 5, CLIPTokenizer).
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokenizer:
    """Token ids of prompts, and the files that keep them.

    Attributes:
        max_length: Tokens of a prompt, start and end included.
        words: Those added by `with_word`.
    """

    def __init__(self, folder: Path, positions: int):
        """Read a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`.

        Args:
            folder: Holds them, and `tokenizer_config.json`.
            positions: The text encoder's, which no prompt may exceed.

        Raises:
            UserError: A file is missing or damaged, or belongs to another kind of text encoder.
        """
        self._tokenizer = _read(folder)
        settings = _settings(folder)
        self.max_length = min(int(settings.get("model_max_length", positions)), positions)
        self._special = {
            name: _text(settings.get(f"{name}_token", usual))
            for name, usual in (("bos", _START), ("eos", _END), ("pad", _END), ("unk", _END))
        }
        ids = {name: self._tokenizer.token_to_id(text) for name, text in self._special.items()}
        if None in ids.values():
            raise UserError(f"{folder}: this is not CLIP's tokenizer, which has {_START}, {_END}.")
        # Also the padding of Stable Diffusion 2.x, "!": a word's end for transformers, too.
        special = [AddedToken(x, normalized=False, special=True) for x in self._special.values()]
        self._tokenizer.add_special_tokens(special)
        self._start, self._end, self._pad = ids["bos"], ids["eos"], ids["pad"]
        self.words: tuple[str, ...] = ()
        self._vectors: dict[int, Sequence[int]] = {}  # of a word of several: all of its ids

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Token ids, int32 `[B, max_length]`; what is longer is cut off."""
        tokens = np.full((len(prompts), self.max_length), self._pad, np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            words = [each for number in ids for each in self._vectors.get(number, [number])]
            kept = [self._start, *words[: self.max_length - 2], self._end]
            row[: len(kept)] = kept
        return tokens

    @property
    def size(self) -> int:
        """Tokens of the vocabulary, those added included; ids are below it."""
        return self._tokenizer.get_vocab_size()

    def with_word(self, word: str, count: int) -> "Tokenizer":
        """A tokenizer that also knows `word`; it stands for `count` tokens, the next free ones.

        The second is called `word_1` and so on, as in diffusers.

        Raises:
            UserError: There is such a token already.
        """
        added = copy.copy(self)
        added._tokenizer = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        ids = range(self.size, self.size + count)
        for name in (word, *(f"{word}_{i}" for i in range(1, count))):
            if added._tokenizer.token_to_id(name) is not None:
                raise UserError(f"{name!r} is a token of the model already; rename the new one.")
            added._tokenizer.add_tokens([name])
        added.words, added._vectors = (*self.words, word), {**self._vectors, ids[0]: ids}
        return added

    def save(self, folder: Path) -> None:
        """Write the files of both ages into a folder, which is made here."""
        folder.mkdir()
        self._tokenizer.save(str(folder / _WHOLE))
        self._tokenizer.model.save(str(folder))
        special = {f"{name}_token": text for name, text in self._special.items()}
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.max_length}
        (folder / _SETTINGS).write_text(json.dumps({**settings, **special}))
        (folder / "special_tokens_map.json").write_text(json.dumps(special))


def _read(folder: Path) -> tokenizers.Tokenizer:
    missing = [name for name in _PARTS if not (folder / name).is_file()]
    if missing and not (folder / _WHOLE).is_file():
        raise UserError(
            f"{folder / missing[0]} is missing, and so is {_WHOLE}. Needed is a model in "
            "diffusers' layout."
        )
    try:
        whole = folder / _WHOLE
        return _read_whole(whole) if whole.is_file() else _build(folder)
    except UserError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{folder}: not a readable CLIP tokenizer ({error}). Download or save it again."
        ) from error


def _read_whole(file: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    if not isinstance(tokenizer.model, models.BPE):
        raise UserError(
            f"{file}: a {type(tokenizer.model).__name__} tokenizer (of BERT, T5 or the like) where "
            "CLIP's is needed. Choose a Stable Diffusion 1.x or 2.x model."
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _build(folder: Path) -> tokenizers.Tokenizer:
    vocabulary, merges = (str(folder / name) for name in _PARTS)
    model = models.BPE.from_file(
        vocabulary, merges, unk_token=_END, continuing_subword_prefix="", end_of_word_suffix="</w>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    added = _json(folder / "added_tokens.json")
    tokenizer.add_tokens(sorted(added, key=added.__getitem__))
    wrong = [text for text, number in added.items() if tokenizer.token_to_id(text) != number]
    if wrong:
        raise UserError(
            f"{folder / 'added_tokens.json'}: the number of {wrong[0]!r} does not follow on those "
            "of vocab.json. Save the tokenizer again."
        )
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    return {**_json(folder / "special_tokens_map.json"), **_json(folder / _SETTINGS)}


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}). Download or save it again.") from error


def _text(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
