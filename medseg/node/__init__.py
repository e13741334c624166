"""A receiving service beside a PACS: studies in over the network, their masks back, nothing lost and nothing twice.

:class:`~medseg.node.spool.Spool` keeps everything on disk, :mod:`~medseg.node.network` speaks DICOM,
:class:`~medseg.node.service.Node` goes from one state of a study to the next, and :mod:`~medseg.node.answering` asks a
model.
"""

from medseg.node.network import Peer
from medseg.node.service import Answer, Node, NodeSettings

__all__ = ["Answer", "Node", "NodeSettings", "Peer"]
