"""``python -m revector`` is the command ``revector``."""

from __future__ import annotations

from revector.cli import main

main()
