"""From a fingerprint to a plan: nnU-Net's rules as pure functions, every derived value with its reason."""

from medseg.planning.explanation import compare, explain
from medseg.planning.plan import Configuration, Decision, Normalization, Plan
from medseg.planning.planner import plan_dataset

__all__ = ["Configuration", "Decision", "Normalization", "Plan", "compare", "explain", "plan_dataset"]
