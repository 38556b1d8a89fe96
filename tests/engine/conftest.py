"""Engines in this process, each over a trace that its test writes.

vLLM chooses its platform once in a process, when it is first imported: that happens here, under the variable, before a
test module imports vLLM. The variable is set again only while an engine starts.
"""

import copy
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_sim.engine.plugin import TRACE_VARIABLE

MODEL = Path(__file__).parents[2] / "exported_models" / "Llama-3.2-1B-Instruct"

with pytest.MonkeyPatch.context() as _environment:
    _environment.setenv(TRACE_VARIABLE, "named, so that the platform is ours")
    from vllm.platforms import current_platform

    if type(current_platform).__name__ != "ReplayPlatform":
        raise RuntimeError("vllm was imported before tests/engine: run these tests in a process of their own")

from vllm.entrypoints.llm import LLM  # noqa: E402
from vllm.inputs import TokensPrompt  # noqa: E402
from vllm.outputs import CompletionOutput  # noqa: E402
from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.engine import core, llm_engine  # noqa: E402

Row = dict[str, Any]
Start = Callable[..., LLM]


@pytest.fixture(scope="package")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """In-process engines, and a cache of tokens that ends with these tests; vLLM's own cache stays where it is.

    vLLM collects garbage when an engine starts and when it ends, and thaws what was frozen. What is imported stays
    frozen here (see tests/conftest.py) and an engine does not: its start took 1.1 s of CPU and takes 0.1 s.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "freeze_gc_heap", gc.collect)
        patch.setattr(gc, "unfreeze", lambda: None)
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("VLLM_CACHE_ROOT", os.environ.get("VLLM_CACHE_ROOT") or str(root / "vllm"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield patch


@pytest.fixture(scope="module", autouse=True)
def nothing_to_search(environment: pytest.MonkeyPatch) -> None:
    """What earlier tests keep is not searched for garbage at each start of an engine."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="package")
def start(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts an LLM over rows (or the bytes of a trace): start(rows, **arguments of LLM).

    One at a time: the front end checks prompts against the trace of the engine that was started last. The renderer,
    whose tokenizer takes seconds to load, is the first engine's for all, with the limits of each.
    """
    folder = tmp_path_factory.mktemp("traces")
    renderers: list[Any] = []
    make_renderer = llm_engine.renderer_from_config

    def shared_renderer(config: Any) -> Any:
        renderers[:] = renderers or [make_renderer(config)]
        own = copy.copy(renderers[0])
        own.config, own.model_config = config, config.model_config
        return own

    environment.setattr(llm_engine, "renderer_from_config", shared_renderer)

    def start_engine(rows: list[Row] | bytes, simulator: dict[str, Any] | None = None, **arguments: Any) -> LLM:
        path = folder / f"{len(list(folder.iterdir()))}.jsonl"
        path.write_bytes(rows if isinstance(rows, bytes) else b"".join(json.dumps(r).encode() + b"\n" for r in rows))
        defaults = {"model": str(MODEL), "max_model_len": 16384, "max_num_seqs": 64, "block_size": 8}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(TRACE_VARIABLE, str(path))
            return LLM(**defaults | arguments, additional_config={"vllm_sim": simulator or {}})

    return start_engine


def prompts_of(llm: LLM) -> list[TokensPrompt]:
    """The prompts of an engine's trace, row by row, as token ids."""
    trace = llm.llm_engine.model_executor._answers.trace
    return [TokensPrompt(prompt_token_ids=trace.prompt(row).tolist()) for row in range(len(trace))]


def generate(llm: LLM, prompts: list[Any], **parameters: Any) -> list[CompletionOutput]:
    """The first completion of each prompt, up to the recorded end unless the parameters say otherwise."""
    params = SamplingParams(**{"max_tokens": 16000} | parameters)
    return [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]
