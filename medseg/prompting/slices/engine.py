"""What engines that see pictures have in common: the image, through a window, as slices."""

from __future__ import annotations

from medseg.errors import UsageError
from medseg.progress import Progress
from medseg.prompting.slices.pictures import Pictures
from medseg.prompting.slices.windows import Window
from medseg.volume import Volume


class PictureEngine:
    """Keeps an image as pictures for an engine (:class:`medseg.prompting.engine.Engine`) that segments slices.

    Args:
        window: what becomes black and white; by default chosen by the scan.
    """

    takes_text = False

    def __init__(self, window: Window | None) -> None:
        self._window = window
        self._pictures: Pictures | None = None

    def set_image(self, volume: Volume, *, case: str, progress: Progress) -> None:
        """Bring the scan to 0 to 255; nothing is embedded yet.

        Raises:
            DataError: an image that makes no pictures; ``case`` names it.
        """
        progress(0, 1, "preparing the image")
        self._pictures = Pictures.of(volume, self._window, case)
        progress(1, 1, "preparing the image")

    @property
    def opened(self) -> Pictures:
        """The image.

        Raises:
            UsageError: there is none yet.
        """
        if self._pictures is None:
            raise UsageError("the session has no image yet; begin with set_image(volume)")
        return self._pictures
