"""Plain networks, one file each and a row each in `table.MODELS`."""

from gracile.models.common import ImageSize, initialise
from gracile.models.lenet import lenet
from gracile.models.mlp import mlp
from gracile.models.normalize import Normalize, normalized
from gracile.models.resnet import resnet18, resnet20, resnet38, resnet56
from gracile.models.table import MODELS, build
from gracile.models.vgg import vgg16

__all__ = [
    "MODELS",
    "ImageSize",
    "Normalize",
    "build",
    "initialise",
    "lenet",
    "mlp",
    "normalized",
    "resnet18",
    "resnet20",
    "resnet38",
    "resnet56",
    "vgg16",
]
