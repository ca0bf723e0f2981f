"""Plain networks, one file each and a row each in `table.MODELS`."""

from gracile.models.activations import ACTIVATIONS, SquaredExponential
from gracile.models.backpropagation import MlpGradients, mlp_gradients, sgd_step_
from gracile.models.cnn import cnn
from gracile.models.common import ImageSize, initialise
from gracile.models.enresnet import EnResNet, enresnet
from gracile.models.l1_batch_norm import L1BatchNorm1d, L1BatchNorm2d
from gracile.models.lenet import lenet
from gracile.models.mlp import mlp
from gracile.models.mobilenet import mobilenet
from gracile.models.noise import GaussianNoise, draws_noise, set_noise
from gracile.models.normalize import Normalize, UnitNorm, normalized
from gracile.models.resnet import resnet18, resnet20, resnet38, resnet56
from gracile.models.table import MODELS, build
from gracile.models.vgg import vgg16
from gracile.models.vit import vit
from gracile.models.weight_standardisation import plain_weights, standardise_weights

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "EnResNet",
    "GaussianNoise",
    "ImageSize",
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "MlpGradients",
    "Normalize",
    "SquaredExponential",
    "UnitNorm",
    "build",
    "cnn",
    "draws_noise",
    "enresnet",
    "initialise",
    "lenet",
    "mlp",
    "mlp_gradients",
    "mobilenet",
    "normalized",
    "plain_weights",
    "resnet18",
    "resnet20",
    "resnet38",
    "resnet56",
    "set_noise",
    "sgd_step_",
    "standardise_weights",
    "vgg16",
    "vit",
]
