"""nnU-Net v2: its plans, both ways."""

from medseg.interop.nnunet.plans import plan_from_documents, plan_from_fingerprint, to_nnunet
from medseg.interop.nnunet.reading import from_nnunet

__all__ = ["from_nnunet", "plan_from_documents", "plan_from_fingerprint", "to_nnunet"]
