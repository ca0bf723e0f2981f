"""Learners without backpropagation as scikit-learn estimators, and ReDense for networks already trained."""

from gracile.layerwise.consensus import Consensus
from gracile.layerwise.dkn import DKNClassifier, DKNRegressor
from gracile.layerwise.elm import ELMClassifier, ELMRegressor
from gracile.layerwise.flow import fold, signed_relu
from gracile.layerwise.hnf import HNFClassifier, HNFRegressor
from gracile.layerwise.least_squares import NormBall, norm_ball_least_squares
from gracile.layerwise.redense import ReDense, retrain_last
from gracile.layerwise.slfn import SLFNClassifier, SLFNRegressor
from gracile.layerwise.ssfn import SSFNClassifier, SSFNRegressor
from gracile.layerwise.statistics import Statistics
from gracile.layerwise.storage import load

__all__ = [
    "Consensus",
    "DKNClassifier",
    "DKNRegressor",
    "ELMClassifier",
    "ELMRegressor",
    "HNFClassifier",
    "HNFRegressor",
    "NormBall",
    "ReDense",
    "SLFNClassifier",
    "SLFNRegressor",
    "SSFNClassifier",
    "SSFNRegressor",
    "Statistics",
    "fold",
    "load",
    "norm_ball_least_squares",
    "retrain_last",
    "signed_relu",
]
