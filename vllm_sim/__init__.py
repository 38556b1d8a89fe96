"""vllm_sim: a laboratory for prefix sharing in LLM serving on an unmodified vLLM.

This file imports nothing: vLLM loads the package's plugins while it resolves its platform, and an import of vLLM
here would re-enter that and drop the plugin silently.
"""

__version__ = "0.1.0"
