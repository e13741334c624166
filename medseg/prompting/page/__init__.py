"""A page to click on: a session with an image, served to a browser on the same machine."""

from medseg.prompting.page.server import PageServer

__all__ = ["PageServer"]
