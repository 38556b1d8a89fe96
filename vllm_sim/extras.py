"""What an installation may lack, and which extra of the package brings it: `pip install "vllm-sim[record]"`.

The package itself needs neither vLLM nor torch; its `fast` backend, traces, workloads, sweeps and plots work without.
"""

EXTRAS = {
    "engine": ("vllm", "torch", "psutil", "prometheus_client"),
    "model": ("llama_models", "tiktoken", "transformers"),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "record": ("httpx", "uvicorn"),
    "report": ("typst",),
}
"""Modules that only an extra brings. vLLM may come from anywhere else; docs/quickstart.md says from where."""


def missing(error: ImportError) -> str:
    """An import that failed in one line, with what to install."""
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if not isinstance(error, ModuleNotFoundError) or not module:
        return str(error)
    if extra is None:
        return f"the module {module} is not installed, which the installation of vllm-sim brings: pip install vllm-sim"
    return f'the module {module} is not installed: pip install "vllm-sim[{extra}]"'
