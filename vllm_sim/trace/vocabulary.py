"""The tokenizer side of a model folder, without transformers or torch.

Faithful to vLLM 0.32: the tokens of a text prompt (special tokens recognised, BOS added), of a chat (the folder's
template under the environment that transformers compiles templates in, messages normalised as vllm/renderers/
chat_utils.py does for templates that take contents as text, no special tokens added), and the end tokens. A test
compares them with vLLM's own renderer. Not covered: tokenizers without a tokenizer.json, media in chat messages,
templates that take message contents as a list of parts, and the removal of Claude Code's attribution line.

Only texts need a tokenizer. For token ids, hash ids and lengths the end tokens and the size of the vocabulary do, which
config.json has too; without any model they get tokens that no vocabulary has.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vllm_sim.trace.messages import check_template_options, normalise, with_one_system_turn
from vllm_sim.trace.synthetic import Filler

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "config.json")


class Vocabulary:
    """Tokenizer, chat template and end tokens of a model.

    Args:
        model: A model's folder, or the name of a model on the Hugging Face hub, whose files are then fetched (from the
            local cache if they are there); None where there is no text to encode.

    Raises:
        ValueError: there is no such model. A folder without a tokenizer is refused by what encodes text.
    """

    def __init__(self, model: str | Path | None):
        self.model = model
        # Looked for first: a hub that does not answer costs its client's retries for each file.
        if model is not None and _find_file(model, "tokenizer.json") is None and not Path(model).is_dir():
            raise ValueError(
                f"{model} is no folder here, and the hub gives no tokenizer.json of that name; allowed: "
                "--model FOLDER, as `vllm-sim model export` builds it"
            )
        self._files = {name: None if model is None else _find_file(model, name) for name in FILES}
        self._config = self._read_json("tokenizer_config.json")

    @property
    def _needs_tokenizer(self) -> str:
        if self.model is None:
            return "a text needs a tokenizer; allowed: --model FOLDER, as `vllm-sim model export` builds it"
        return f"{self.model} holds no tokenizer.json; allowed: a folder that has one, as of `vllm-sim model export`"

    @cached_property
    def _file(self) -> "_File":
        path = self._files["tokenizer.json"]
        if path is None:
            raise ValueError(self._needs_tokenizer)
        status = path.stat()
        return _File(path, status.st_mtime_ns, status.st_size)

    @cached_property
    def _for_prompts(self) -> "Tokenizer":
        return _tokenizer(self._file, for_responses=False)

    @cached_property
    def _for_responses(self) -> "Tokenizer":
        return _tokenizer(self._file, for_responses=True)

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self._files[name]
        return json.loads(path.read_text(encoding="utf-8")) if path else {}

    def fingerprint(self) -> Iterator[bytes]:
        """Yields the bytes of every file that decides about tokens."""
        for path in self._files.values():
            yield path.read_bytes() if path else b""

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of bos_token, eos_token and so on, as a chat template sees them."""
        tokens = {}
        for name, value in self._config.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                tokens[name] = text
        return tokens

    @cached_property
    def eos_token_id(self) -> int | None:
        """The end token that a replay puts after a response: the tokenizer's own, else the first of the model's."""
        if self._files["tokenizer.json"] is not None and "eos_token" in self.special_tokens:
            found = self._for_prompts.token_to_id(self.special_tokens["eos_token"])
            if found is not None:
                return found
        return next(iter(self._configured_ends), None)

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Every token at which generation ends: the tokenizer's end token and those of the model."""
        return frozenset(self._configured_ends) | (frozenset() if self.eos_token_id is None else {self.eos_token_id})

    @cached_property
    def _configured_ends(self) -> list[int]:
        """Of generation_config.json; where that has none, of config.json, as vLLM does."""
        for name in ("generation_config.json", "config.json"):
            found = self._read_json(name).get("eos_token_id")
            if found is not None:
                return [found] if isinstance(found, int) else list(found)
        return []

    @cached_property
    def filler(self) -> Filler:
        """Deterministic tokens for what a trace gives as ids or lengths only: words where there is a tokenizer."""
        if self._files["tokenizer.json"] is not None:
            return _filler(self._file)
        size = self._read_json("config.json").get("vocab_size")
        if size is None:
            return Filler.without_vocabulary()
        return Filler.from_ids(set(range(size)) - self.end_token_ids)

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of text prompts, as /v1/completions has them."""
        return [e.ids for e in self._for_prompts.encode_batch_fast(list(texts), add_special_tokens=True)]

    def encode_chats(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered chats: the template has written BOS and the headers itself."""
        return [e.ids for e in self._for_prompts.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_responses(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of generated text, without an end token."""
        return [e.ids for e in self._for_responses.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, token_ids: "Sequence[int] | np.ndarray") -> str:
        """The text of tokens, special ones included."""
        return self._for_prompts.decode(list(map(int, token_ids)), skip_special_tokens=False)

    @cached_property
    def _template_source(self) -> str:
        if self._files["tokenizer.json"] is None:
            raise ValueError(self._needs_tokenizer)
        path = self._files["chat_template.jinja"]
        source = path.read_text(encoding="utf-8") if path else self._config.get("chat_template")
        if isinstance(source, list):
            source = {entry["name"]: entry["template"] for entry in source}.get("default")
        if not isinstance(source, str):
            raise ValueError(f"{self.model} has no chat template; allowed: chat_template.jinja in the model's folder")
        return source

    @cached_property
    def _template(self) -> Any:
        # Not above, as `tokenizers` below: a trace of hash ids needs neither.
        from vllm_sim.trace.chat_template import ChatTemplate

        return ChatTemplate(self._template_source)

    def render_chat(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, options: dict[str, Any] | None
    ) -> str:
        """The text of a chat with the header of the assistant's next turn.

        Args:
            messages: OpenAI messages; not changed.
            tools: OpenAI tools, or None.
            options: What the request sent as chat_template_kwargs.

        Raises:
            ValueError: a message that vLLM would refuse, or that the template refuses.
        """
        check_template_options(options)
        values = {"add_generation_prompt": True, "documents": None, **self.special_tokens, **(options or {})}
        turns = normalise(messages)
        if any(turn["role"] == "developer" for turn in turns) and not re.search(
            r"""["']developer["']""", self._template_source
        ):
            turns = with_one_system_turn(turns)
        text: str = self._template.render(messages=turns, tools=tools, **values)
        return text


class _File(NamedTuple):
    """A tokenizer.json: loading one takes a second, so what was made of it is kept as long as the file is the same."""

    path: Path
    mtime_ns: int
    size_bytes: int


@lru_cache(maxsize=4)
def _tokenizer(file: _File, for_responses: bool) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file.path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # In a response, text like "<|eot_id|>" is text: only this way does it come back as it was.
    tokenizer.encode_special_tokens = for_responses
    return tokenizer


@lru_cache(maxsize=2)
def _filler(file: _File) -> Filler:
    tokenizer = _tokenizer(file, for_responses=False)

    def coming_back(ids: list[int]) -> list[int]:
        texts = tokenizer.decode_batch([[one] for one in ids])
        found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [one for one, encoding in zip(ids, found, strict=True) if encoding.ids == [one]]

    special_ids = tokenizer.get_added_tokens_decoder()
    return Filler.from_vocabulary(tokenizer.get_vocab(with_added_tokens=False), special_ids, coming_back)


def _find_file(model: str | Path, name: str) -> Path | None:
    folder = Path(model)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if folder.parts[:-1] == ("exported_models",):
        raise ValueError(
            f"no {model} in {Path.cwd()}; `vllm-sim model export` builds it there, or give another --model"
        )
    if "/" not in str(model):
        raise ValueError(f"{model} is neither a folder nor the name of a model on the hub (owner/name)")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(model), name))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise ValueError(f"{model} is neither a folder nor a model that the hub gives: {error}") from None
