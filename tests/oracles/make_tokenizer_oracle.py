"""Record the files and token ids of today's CLIP tokenizer, for a vocabulary of bytes.

Run by hand, from the repository's root:

    pip install transformers==5.24.0
    python tests/oracles/make_tokenizer_oracle.py

It writes `tests/oracles/tokenizer.json`: texts, their ids, and the files that transformers saved.
The padding is that of Stable Diffusion 2.x.
"""

import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

FILE = Path(__file__).parent / "tokenizer.json"
START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = tuple(map(chr, (*range(33, 127), *range(161, 173), *range(174, 324))))
MAX_TOKENS = 24
TEXTS = [
    "a photo of a sea lion",
    "A  Sea\tLION's den, it'll be 42!",
    "海の ライオン",
    "zero\u200bwidth\u200djoin\ufeff",
    "e\u0301\u00e9 \U0001f981",
    "<|endoftext|> in a text",
    "",
    "seasick " * 12,
    "\uff26\uff35\uff2c\uff2c ß İ ǅ",
]
# With the vocabulary of Stable Diffusion 1.x, which is kept beside the repository.
PUBLISHED = Path(__file__).parents[3] / "shared/data/stable_diffusion_v1_4_configs/tokenizer"
PUBLISHED_TEXTS = [
    "a photo of a sea lion, 8k, it's  blurry!",
    "çà et là",
    "x " * 100,
    "naïve 12 km/h",
]


def main() -> None:
    """Write the file."""
    tokens = [*BYTES, *(f"{x}</w>" for x in BYTES), "se", "sea</w>", START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": "!"}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **special}
    with tempfile.TemporaryDirectory() as temporary:
        older, saved = Path(temporary) / "older", Path(temporary) / "saved"
        older.mkdir()
        (older / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
        (older / "merges.txt").write_text("#version: 0.2\ns e\nse a</w>\n")
        (older / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = CLIPTokenizer.from_pretrained(older)
        tokenizer.save_pretrained(saved)
        files = {path.name: json.loads(path.read_text()) for path in sorted(saved.iterdir())}
    ids = tokenizer(TEXTS, padding="max_length", truncation=True).input_ids
    published = CLIPTokenizer.from_pretrained(PUBLISHED)(
        PUBLISHED_TEXTS, padding="max_length", max_length=77, truncation=True
    )
    content = {
        "texts": TEXTS,
        "ids": ids,
        "files": files,
        "published_texts": PUBLISHED_TEXTS,
        "published_ids": published.input_ids,
    }
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
