"""Networks that are quick to differentiate twice."""

from torch import nn

from bench.nn import StridedConv2d
from methods.ap_dpe.batch_norm import TwiceDifferentiableBatchNorm2d
from methods.ap_dpe.convolution import TwiceDifferentiableConv2d

_QUICK = {
    nn.BatchNorm2d: TwiceDifferentiableBatchNorm2d,
    nn.Conv2d: TwiceDifferentiableConv2d,
    StridedConv2d: TwiceDifferentiableConv2d,
}


def make_twice_differentiable(module: nn.Module) -> None:
    """Replace every plain batch-norm and convolution in ``module``, keeping weights and buffers."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if (quick := _QUICK.get(type(child))) is not None:
                setattr(parent, name, quick(child))
