"""In which number format a model is trained: what the hardware multiplies fast."""

from typing import Any, Literal

from serving.cpu import cpu_features

Precision = Literal["auto", "bf16", "fp32"]


def bf16_on(device: str) -> bool:
    """Whether this device multiplies bf16 in hardware: AMX or AVX512-BF16 on a CPU, or a CUDA device that has it."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & cpu_features())


def precision_used(asked: Precision, device: str) -> str:
    """bf16 or fp32: what `autocast` computes in."""
    return asked if asked != "auto" else "bf16" if bf16_on(device) else "fp32"


def autocast(device: str, precision: Precision = "auto") -> Any:
    """bf16 autocast where it is asked for, or (auto) where the hardware has it; otherwise nothing."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=precision_used(precision, device) == "bf16")
