"""The estimators of this room: one row each."""

from __future__ import annotations

from gracile.layerwise.dkn import DKNClassifier, DKNRegressor
from gracile.layerwise.elm import ELMClassifier, ELMRegressor
from gracile.layerwise.estimator import Learner
from gracile.layerwise.hnf import HNFClassifier, HNFRegressor
from gracile.layerwise.slfn import SLFNClassifier, SLFNRegressor
from gracile.layerwise.ssfn import SSFNClassifier, SSFNRegressor

ESTIMATORS: dict[str, type[Learner]] = {
    estimator.__name__: estimator
    for estimator in (
        ELMClassifier,
        ELMRegressor,
        SLFNClassifier,
        SLFNRegressor,
        SSFNClassifier,
        SSFNRegressor,
        HNFClassifier,
        HNFRegressor,
        DKNClassifier,
        DKNRegressor,
    )
}
