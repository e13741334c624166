"""Prompting: a box, a point, a line, a mask or a word in; the mask of an object on the image's grid out.

session = medseg.prompting.load("workspace/models/3d_fullres_promptable")
session.set_image(medseg.read("ct.nii.gz"))
mask = session.add(Box((10, 40, 52), (18, 60, 80)))
mask = session.add(Point((12, 44, 60), positive=False))
"""

from medseg.prompting.engine import Engine
from medseg.prompting.loading import load
from medseg.prompting.prompts import Box, MaskPrompt, Point, Prompt, Scribble, Text
from medseg.prompting.session import Session

__all__ = ["Box", "Engine", "MaskPrompt", "Point", "Prompt", "Scribble", "Session", "Text", "load"]
