"""Networks that invert measurements directly."""

from jaxinv.networks.blocks import AttentionGate, ResidualBlock, TransposedConvolution
from jaxinv.networks.direct_unet import DirectInversionUNet, InputScaling, UNetConfig

__all__ = [
    "AttentionGate",
    "DirectInversionUNet",
    "InputScaling",
    "ResidualBlock",
    "TransposedConvolution",
    "UNetConfig",
]
