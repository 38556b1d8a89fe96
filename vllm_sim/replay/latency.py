"""How long a step takes on a device: models by name.

`zero` takes no time. `table` is a plane through steps that a real vLLM timed (calibrate.py). `roofline` is the larger
of the time to compute and the time to move bytes (Williams, Waterman and Patterson, "Roofline", CACM 2009), for one
device and what the model's layers compute (models/work.py); then the time of tensor parallelism's all-reduces, and what
the host takes for a step. Not modelled there: kernels that use only part of the device, the latency of starting kernels
and all-reduces, quantisation of weights, experts that some tokens prefer, expert parallelism's exchange of tokens,
sparse attention, which here reads every position, what a state computes, and the overlap of computing with moving or
communicating beyond their maximum. None of it was compared with a GPU.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from vllm_sim.models.work import VALUE_BYTES, Experts, ModelWork
from vllm_sim.step_load import Reach, StepLoad


class LatencyModel(Protocol):
    """The time of a step."""

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """Those of which a load must say what is near."""
        ...

    def step_ms(self, load: StepLoad) -> float:
        """Milliseconds that a step with this load takes."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """Peak numbers of a device, from its vendor's document.

    Attributes:
        tflops: Dense BF16 matrix operations, 10^12 floating-point operations a second.
        gb_per_s: Memory bandwidth, 10^9 bytes a second.
        link_gb_per_s: To other devices, in one direction, 10^9 bytes a second. None: it has no link.
        memory_gib: Memory, in GiB, the vendor's number. None: it depends on the machine.
        source: The document.
        host_gb_per_s: Bandwidth to the host's memory, one way, 10^9 bytes a second.
    """

    tflops: float
    gb_per_s: float
    link_gb_per_s: float | None
    memory_gib: int | None
    source: str
    host_gb_per_s: float = 32  # PCIe Gen4 x16


DEVICES = {
    "h100": Device(
        989.4,
        3350,
        450,
        80,
        "NVIDIA H100 Tensor Core GPU datasheet, SXM: BF16 1,979 TFLOPS with sparsity, 3.35 TB/s, NVLink 900, "
        "PCIe Gen5 128",
        64,
    ),
    "a100": Device(
        312, 2039, 300, 80, "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM: BF16 312 TFLOPS, 2,039 GB/s, NVLink 600"
    ),
    "l4": Device(
        121,
        300,
        32,
        24,
        "NVIDIA L4 Tensor Core GPU datasheet: BF16 242 TFLOPS with sparsity, 300 GB/s, PCIe Gen4 x16 64",
    ),
    "laptop": Device(
        0.92,
        119.5,
        None,
        None,
        "Intel Core Ultra 7 155H, product specifications: LPDDR5x-7467 on 128 bits; 6 performance cores at 4.8 GHz "
        "with 32 FP32 operations a cycle (AVX2, two FMA units); a copy reads and writes the one memory",
        59.75,
    ),
}


def device_bytes(name: str) -> int:
    """Memory of a device.

    Raises:
        ValueError: the device is not known, or it has no memory of its own.
    """
    known = {name: device.memory_gib for name, device in DEVICES.items() if device.memory_gib is not None}
    if name not in known:
        raise ValueError(f"device is {name!r}; allowed where memory is needed: {', '.join(known)}")
    return known[name] * 2**30


def check_device(name: str, devices: int) -> None:
    """Checks that there is such a device, and that several of them are linked.

    Raises:
        ValueError: it is not known, or has no link.
    """
    if name not in DEVICES:
        raise ValueError(f"device is {name!r}; allowed: {', '.join(DEVICES)}")
    if devices > 1 and DEVICES[name].link_gb_per_s is None:
        raise ValueError(f"device {name} has no link to others; allowed: tensor parallel 1, or another device")


MODELS = ("zero", "roofline", "table")
BOUNDS = ("compute", "bandwidth", "links", "host")
"""What a step's time is made of; bandwidth is that of the device's memory."""
COMPUTE_EFFICIENCY = 0.6
MEMORY_EFFICIENCY = 0.8


def copy_gb_per_s(device: str) -> float:
    """How fast a device copies to the host's memory, and as fast from it: its bandwidth x 0.8, an assumption."""
    return DEVICES[device].host_gb_per_s * MEMORY_EFFICIENCY


class Roofline:
    """max(operations / (peak x 0.6), bytes / (bandwidth x 0.8)) of a step.

    Operations: 2 for each weight that a token passes; 2 for each weight of the output layer and each sampled token; in
    each layer 2 x heads x (head size of keys + of values) for each pair of a token and a position that it sees. Bytes:
    each weight that any token passes, once; keys and values of all positions that a layer sees, read once a request,
    those of new tokens written; a request's states, read and written. A layer with a sliding window or chunks sees what
    is in them. The efficiencies are assumptions, the same for every device: a large matrix product reaches about 0.6 of
    the peak, a stream through memory about 0.8.

    Experts: a token passes k of E. That n tokens draw k experts each, uniformly and without regard to one another, is
    assumed; one expert is left out by all of them with probability (1 - k / E) ** n, so E x (1 - (1 - k / E) ** n) of
    them are read in the mean.

    T devices that share each layer compute and move their part of it, and no less than one key-value head. Two
    all-reduces a layer then carry hidden size x tokens x 2 bytes, of which a ring sends 2 (T - 1) / T over each link;
    links are taken to reach 0.8 of their bandwidth too. The host's time for a step is added as it is given.
    """

    def __init__(self, work: ModelWork, device: str, tensor_parallel: int = 1, host_overhead_ms: float = 0.0):
        """Args:
        work: What one of the devices computes.
        device: A name of DEVICES.
        tensor_parallel: How many there are.
        host_overhead_ms: The host's time for a step.
        """
        check_device(device, tensor_parallel)
        self.work = work
        self.reaches = tuple(layers.reach for layers in work.attention if layers.reach is not None)
        self.host_overhead_ms = host_overhead_ms
        self.link_ms_a_token = 0.0
        link = DEVICES[device].link_gb_per_s
        if tensor_parallel > 1 and link is not None:
            sent = 2 * (tensor_parallel - 1) / tensor_parallel * work.reduced_values_a_token * VALUE_BYTES
            self.link_ms_a_token = sent / (link * 1e6 * MEMORY_EFFICIENCY)
        self.operations_per_ms = DEVICES[device].tflops * 1e9 * COMPUTE_EFFICIENCY
        self.bytes_per_ms = DEVICES[device].gb_per_s * 1e6 * MEMORY_EFFICIENCY

    def step_ms(self, load: StepLoad) -> float:
        if not load.requests:
            return 0.0
        compute, bandwidth, links, host = self._parts(load)
        return max(compute, bandwidth) + links + host

    def bound_by(self, load: StepLoad) -> str:
        """What takes most of a step: a name of BOUNDS."""
        parts = dict(zip(BOUNDS, self._parts(load), strict=True))
        return max(parts, key=lambda name: parts[name])

    def _parts(self, load: StepLoad) -> tuple[float, float, float, float]:
        """Milliseconds of BOUNDS."""
        work = self.work
        operations = 2 * (work.layer_weights * load.tokens + work.output_weights * load.sampled)
        weights = work.layer_weights + work.output_weights
        for experts in work.experts:
            operations += 2 * experts.weights * experts.a_token * experts.on_device / experts.a_layer * load.tokens
            weights += experts.weights * read_experts(experts, load.tokens)
        moved = weights * VALUE_BYTES + 2 * work.state_bytes * load.requests
        near = iter(load.near)
        for layers in work.attention:
            seen = load if layers.reach is None else next(near)
            operations += layers.operations_a_pair * seen.pairs
            moved += layers.bytes_a_position * seen.positions
        return (
            operations / self.operations_per_ms,
            moved / self.bytes_per_ms,
            self.link_ms_a_token * load.tokens,
            self.host_overhead_ms,
        )


def read_experts(experts: Experts, tokens: int) -> float:
    """How many experts of a layer a step of so many tokens reads on a device, in the mean."""
    return experts.on_device * (1 - (1 - experts.a_token / experts.a_layer) ** tokens)


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """base + a x prefilling requests + b x their tokens + c x decoding requests: what vllm-sim calibrate has fitted.

    The length of contexts is not in it: vLLM's log does not tell it. A step that computes nothing takes no time.
    """

    base_ms: float
    prefill_request_ms: float
    prefill_token_ms: float
    decode_request_ms: float

    @property
    def reaches(self) -> tuple[Reach, ...]:
        """None: contexts are not in it."""
        return ()

    def step_ms(self, load: StepLoad) -> float:
        """Milliseconds that a step with this load takes, by the fitted formula."""
        if not load.requests:
            return 0.0
        return (
            self.base_ms
            + self.prefill_request_ms * (load.requests - load.decodes)
            + self.prefill_token_ms * (load.tokens - load.decodes)
            + self.decode_request_ms * load.decodes
        )


def load_table(path: Path) -> LatencyTable:
    """A table that vllm-sim calibrate has written.

    Raises:
        ValueError: the file is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    names = [field.name for field in fields(LatencyTable)]
    for name in names:
        value = values.get(name) if isinstance(values, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"{path}: {name} is {value!r}; allowed: milliseconds, 0 or more")
    return LatencyTable(*(float(values[name]) for name in names))


def make_latency(
    name: str,
    work: ModelWork,
    device: str,
    table: LatencyTable | None = None,
    tensor_parallel: int = 1,
    host_overhead_ms: float = 0.0,
) -> LatencyModel | None:
    """A latency model by its name; None for `zero`, where steps take no time and their load need not be known.

    Args:
        name: One of MODELS.
        work: What the model computes on one device, for `roofline`.
        device: A name of DEVICES, for `roofline`.
        table: For `table`.
        tensor_parallel: Devices that share each layer, for `roofline`.
        host_overhead_ms: What the host takes for each step, for `roofline`.

    Raises:
        ValueError: the name or the device is not known, or there is no table.
    """
    if name == "zero":
        return None
    if name == "roofline":
        return Roofline(work, device, tensor_parallel, host_overhead_ms)
    if name == "table" and table is not None:
        return table
    raise ValueError(f"latency model is {name!r}; allowed: {', '.join(MODELS)}, table with a table")
