"""``python -m medseg`` is ``medseg``."""

from medseg.cli import main

main()
