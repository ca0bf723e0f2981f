"""Learners without backpropagation, as scikit-learn estimators on torch: ELM, SLFN, SSFN, HNF, DKN, and ReDense for trained networks."""

from gracile.layerwise.dkn import DKNClassifier, DKNRegressor
from gracile.layerwise.elm import ELMClassifier, ELMRegressor
from gracile.layerwise.flow import fold, signed_relu
from gracile.layerwise.hnf import HNFClassifier, HNFRegressor
from gracile.layerwise.least_squares import NormBall, norm_ball_least_squares
from gracile.layerwise.slfn import SLFNClassifier, SLFNRegressor
from gracile.layerwise.ssfn import SSFNClassifier, SSFNRegressor
from gracile.layerwise.statistics import Statistics
from gracile.layerwise.storage import load

__all__ = [
    "DKNClassifier",
    "DKNRegressor",
    "ELMClassifier",
    "ELMRegressor",
    "HNFClassifier",
    "HNFRegressor",
    "NormBall",
    "SLFNClassifier",
    "SLFNRegressor",
    "SSFNClassifier",
    "SSFNRegressor",
    "Statistics",
    "fold",
    "load",
    "norm_ball_least_squares",
    "signed_relu",
]
