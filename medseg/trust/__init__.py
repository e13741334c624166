"""How far a mask can be trusted, said when it is predicted: from held-out cases, and without its reference.

bands         from a promised Dice to a band; ``trust.json`` in the model folder
calibration   makes it, once a model, from held-out cases
overlap       while a scan is predicted: the Dice that its probabilities promise, and how far folds agree
drift         whether the scan is like those of training
verdict       all of it about one case: a band, numbers, and reasons to look at it
"""

from medseg.trust.bands import TRUST_FILE, Band, TrustDocument, load_trust, trust_for
from medseg.trust.calibration import calibrate
from medseg.trust.drift import Drift, TrainingScans, describe_scan
from medseg.trust.overlap import LabelOverlap, OverlapSums
from medseg.trust.verdict import VERDICTS_FILE, CaseTrust, LabelTrust, Verdicts, judge, load_verdicts, write_verdicts

__all__ = [
    "TRUST_FILE",
    "VERDICTS_FILE",
    "Band",
    "CaseTrust",
    "Drift",
    "LabelOverlap",
    "LabelTrust",
    "OverlapSums",
    "TrainingScans",
    "TrustDocument",
    "Verdicts",
    "calibrate",
    "describe_scan",
    "judge",
    "load_trust",
    "load_verdicts",
    "trust_for",
    "write_verdicts",
]
