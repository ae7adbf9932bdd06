"""AP-DPE: adversarial pre-training on three pretext tasks (Chen et al., CVPR 2020)."""

from methods.ap_dpe.method import APDPE

__all__ = ["APDPE"]
