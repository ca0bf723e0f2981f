"""One filter over patches without overlap: exact risk, relaxed splitting on it, and what theorems 3.1 and 3.2 say of it."""

from gracile.one_layer.admm import Agreed, admm
from gracile.one_layer.binary import binary_gradient, binary_risk, coarse_gradient, coarse_slope
from gracile.one_layer.conditions import Condition, Conditions, check_conditions, least_delta
from gracile.one_layer.iterations import Trajectories, rvscgd, rvsm
from gracile.one_layer.limits import Limit, limit_identity
from gracile.one_layer.risk import (
    CriticalPoints,
    Curvature,
    angle,
    critical_points,
    largest_curvature,
    population_curvature,
    population_gradient,
    population_risk,
)
from gracile.one_layer.sample import (
    gaussian_patches,
    sample_binary_risk,
    sample_coarse_gradient,
    sample_gradient,
    sample_risk,
)
from gracile.one_layer.starts import far_probability, random_starts, sparse_teacher
from gracile.one_layer.verification import (
    Verification,
    critical_lam,
    gradient_ratio,
    largest_beta,
    sample_deviation,
    verify,
)

__all__ = [
    "Agreed",
    "Condition",
    "Conditions",
    "CriticalPoints",
    "Curvature",
    "Limit",
    "Trajectories",
    "Verification",
    "admm",
    "angle",
    "binary_gradient",
    "binary_risk",
    "check_conditions",
    "coarse_gradient",
    "coarse_slope",
    "critical_lam",
    "critical_points",
    "far_probability",
    "gaussian_patches",
    "gradient_ratio",
    "largest_beta",
    "largest_curvature",
    "least_delta",
    "limit_identity",
    "population_curvature",
    "population_gradient",
    "population_risk",
    "random_starts",
    "rvscgd",
    "rvsm",
    "sample_binary_risk",
    "sample_coarse_gradient",
    "sample_deviation",
    "sample_gradient",
    "sample_risk",
    "sparse_teacher",
    "verify",
]
