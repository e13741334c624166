"""Documents and models of other programs, read and written."""

from medseg.interop import nnunet

__all__ = ["nnunet"]
