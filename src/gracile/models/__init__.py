"""Plain networks, one file each and a row each in `table.MODELS`."""

from gracile.models.common import ImageSize, initialise
from gracile.models.enresnet import EnResNet, enresnet
from gracile.models.lenet import lenet
from gracile.models.mlp import mlp
from gracile.models.noise import GaussianNoise, set_noise
from gracile.models.normalize import Normalize, normalized
from gracile.models.resnet import resnet18, resnet20, resnet38, resnet56
from gracile.models.table import MODELS, build
from gracile.models.vgg import vgg16

__all__ = [
    "MODELS",
    "EnResNet",
    "GaussianNoise",
    "ImageSize",
    "Normalize",
    "build",
    "enresnet",
    "initialise",
    "lenet",
    "mlp",
    "normalized",
    "resnet18",
    "resnet20",
    "resnet38",
    "resnet56",
    "set_noise",
    "vgg16",
]
