"""The check of vLLM's version, for whoever is about to import vLLM; nothing of it is imported here."""

from vllm_sim.provenance import vllm_version

OLDEST = (0, 32)


class VersionError(RuntimeError):
    """vLLM is not installed, is older than OLDEST, or lacks what is rebound."""


def installed_version() -> str:
    """vLLM's version.

    Raises:
        VersionError: vLLM is not installed, or is older than OLDEST.
    """
    oldest = ".".join(map(str, OLDEST))
    version = vllm_version()
    if version is None:
        raise VersionError(f"vllm is not installed; vllm_sim needs vllm {oldest} or newer")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise VersionError(f"vllm {version} is installed; vllm_sim needs vllm {oldest} or newer")
    return version
