"""In which precision a device computes fastest."""

import torch


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is native there; without such instructions a CPU is faster in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))
