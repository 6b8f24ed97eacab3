"""Building OpenVINO's tokenizer from the vocabulary inside a .gguf file. Runs once per model, in openvino_convert.

openvino-genai can do this itself, but does it at every start (4 to 10 s) and gets it wrong where a vocabulary has
`|` in its special tokens: it puts them into a regular expression unescaped, and every `<` of a text splits a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reef.models.gguf import GgufHead
from workers.engines.openvino_parts import silence_telemetry

# How llama.cpp splits text before the byte pairs are merged, by `tokenizer.ggml.pre`. RE2 has no (?i:...) groups in the
# middle, hence the spelled-out cases. A name that is not here is left to llama.cpp itself (engine `llama`).
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASES = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITTERS: dict[str, tuple[str, ...]] = {
    "smollm": (r"\p{N}", _GPT2),
    "qwen2": (rf"{_CASES}|\p{{N}}|{_TAIL}",),
    "deepseek-r1-qwen": (rf"{_CASES}|\p{{N}}|{_TAIL}",),
    "llama-bpe": (rf"{_CASES}|\p{{N}}{{1,3}}|{_TAIL}",),
}
_CONTROL, _USER_DEFINED = 3, 4
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>")


def can_build(head: GgufHead) -> str:
    """Why this vocabulary cannot be built here; empty where it can."""
    model = head.metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        return f"its vocabulary is of kind {model!r}, and only byte-pair vocabularies (gpt2) are understood"
    if head.metadata.get("tokenizer.ggml.pre") not in SPLITTERS:
        return f"its text splitter {head.metadata.get('tokenizer.ggml.pre')!r} is not known"
    if not head.chat_template:
        return "it has no chat template"
    return ""


def special_ids(head: GgufHead) -> list[int]:
    """Tokens that are marks for the model and no text."""
    types = head.metadata["tokenizer.ggml.token_type"]
    return [place for place, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]


def end_ids(head: GgufHead) -> list[int]:
    """Tokens that end a reply; the model's own end of sequence first."""
    tokens: list[str] = head.metadata["tokenizer.ggml.tokens"]
    own = [head.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    known = [place for place in special_ids(head) if tokens[place] in _ENDS]
    return list(dict.fromkeys([*(int(i) for i in own if i is not None), *known]))


def token_bytes(head: GgufHead) -> list[bytes]:
    """The bytes each token stands for; nothing for control tokens."""
    table = _byte_of_character()
    types = head.metadata["tokenizer.ggml.token_type"]
    pieces = []
    for token, kind in zip(head.metadata["tokenizer.ggml.tokens"], types, strict=True):
        pieces.append(b"" if kind == _CONTROL else _to_bytes(token, table))
    return pieces


def save_tokenizers(head: GgufHead, folder: Path) -> None:
    """Write openvino_tokenizer.xml and openvino_detokenizer.xml with their .bin files."""
    silence_telemetry()
    import openvino as ov
    from openvino_tokenizers import tokenizer_pipeline as steps
    from openvino_tokenizers.utils import change_inputs_type, change_outputs_type

    table = _byte_of_character()
    tokens: list[str] = head.metadata["tokenizer.ggml.tokens"]
    special = special_ids(head)
    vocabulary = [_to_bytes(token, table) for token in tokens]
    for place in special:
        vocabulary[place] = tokens[place].encode()
    merges = [
        tuple(_to_bytes(half, table) for half in merge.split(" ", 1))
        for merge in head.metadata["tokenizer.ggml.merges"]
    ]
    pipeline = steps.TokenizerPipeline()
    pipeline.add_steps(
        [
            steps.SpecialTokensSplit.from_string_iter([tokens[place] for place in special]),
            *(
                steps.RegexSplitStep(split, behaviour="isolate", mergeable=False)
                for split in SPLITTERS[head.metadata["tokenizer.ggml.pre"]]
            ),
            steps.BPETokenizationStep(
                vocab=vocabulary, merges=merges, added_tokens={vocabulary[place]: place for place in special}
            ),
            steps.PaddingStep(_token_id=0, pad_right=False),
            steps.VocabDecoderStep(vocab=vocabulary, skip_tokens=special, do_skip_tokens=True),
            steps.FuseStep(),
            steps.UTF8ValidateStep(),
        ]
    )
    tokenizer, detokenizer = pipeline.get_tokenizer_ov_subgraph(), pipeline.get_detokenizer_ov_subgraph()
    change_outputs_type(tokenizer, ov.Type.i64)
    change_inputs_type(detokenizer, ov.Type.i64)
    for model, name in ((tokenizer, "tokenizer"), (detokenizer, "detokenizer")):
        for key, value in _facts(head).items():
            model.set_rt_info(value, key)
        ov.save_model(model, str(folder / f"openvino_{name}.xml"), compress_to_fp16=False)


def _facts(head: GgufHead) -> dict[str, Any]:
    facts: dict[str, Any] = {"chat_template": head.chat_template}
    for ours, theirs in (("eos", "eos"), ("bos", "bos"), ("padding", "pad")):
        value = head.metadata.get(f"tokenizer.ggml.{ours}_token_id")
        if value is not None:
            facts[f"{theirs}_token_id"] = int(value)
    return facts


def _byte_of_character() -> dict[str, int]:
    """GPT-2's way of writing bytes as visible characters, reversed."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in set(visible))
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _to_bytes(token: str, table: dict[str, int]) -> bytes:
    try:
        return bytes(table[character] for character in token)
    except KeyError:  # an added token, written as it is
        return token.encode()
