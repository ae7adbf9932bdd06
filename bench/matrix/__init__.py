"""The matrix: every method on every dataset under every seed, as jobs of a grid, and the devices of this machine."""

from bench.matrix.cells import Matrix, MatrixRequest, from_anywhere, plan_matrix
from bench.matrix.devices import local_devices
from bench.matrix.plan import GridPlan, plan_costs

__all__ = ["GridPlan", "Matrix", "MatrixRequest", "from_anywhere", "local_devices", "plan_costs", "plan_matrix"]
