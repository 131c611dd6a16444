"""What the device can do at most, measured before anything is compared with it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import metadata
from shutil import which
from typing import TYPE_CHECKING, Any

import torch

from gpu.settings import Limits
from gpu.timing import device_seconds

if TYPE_CHECKING:
    from gpu.bench import Bench


def run(bench: Bench) -> None:
    """Measure them and tell the benchmark."""
    device, sizes = bench.device, bench.sizes
    limits = measure(device, copied=sizes.copied_bytes, width=sizes.matrix_width)
    bench.set_limits(limits)
    bench.set_environment(environment(device))
    dtype = "bf16" if device.type == "cuda" else "float32"
    figures = [
        ("copy, read and written", limits.copy / 1e9, "GB/s"),
        ("reduction, read", limits.read / 1e9, "GB/s"),
        (f"matrix product, {sizes.matrix_width}^3, {dtype}", limits.matrix / 1e12, "TFLOP/s"),
    ]
    for figure, value, unit in figures:
        bench.row("limits", {"figure": figure, "value": value, "unit": unit})
    if device.type != "cuda":
        bench.note("ordering an empty Triton kernel: needs a GPU")
        return
    from gpu.empty_kernel import launch_empty  # last, and here: no limit is lost where Triton does not work

    launch = launch_empty(device, launches=1000)
    bench.row("limits", {"figure": "ordering an empty Triton kernel", "value": launch * 1e6, "unit": "us"})


def measure(device: torch.device, *, copied: int, width: int) -> Limits:
    """Measure on random values: zeros may run faster.

    Args:
        device: to measure.
        copied: bytes of what is copied and reduced.
        width: of the square matrices.
    """
    copy_seconds, read_seconds = _memory_seconds(device, copied)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    matrix_seconds = device_seconds(lambda: torch.mm(left, right, out=product), device)
    return Limits(
        copy=2 * copied / copy_seconds,
        read=copied / read_seconds,
        matrix=2 * width**3 / matrix_seconds,
    )


def _memory_seconds(device: torch.device, num_bytes: int) -> tuple[float, float]:
    """Seconds to copy so many bytes, and to reduce them."""
    source = torch.rand(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    reductions: tuple[Callable[[], object], ...] = (source.sum, source.amax)
    return (
        device_seconds(lambda: target.copy_(source), device),
        min(device_seconds(reduction, device) for reduction in reductions),
    )


def environment(device: torch.device) -> dict[str, Any]:
    """What was measured on: device, driver, versions."""
    found: dict[str, Any] = {"device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    for name in ("torch", "triton", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _driver() -> str | None:
    program = which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() or None
