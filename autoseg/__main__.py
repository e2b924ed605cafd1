"""``python -m autoseg``, for starters of several processes: ``torchrun --nproc-per-node 2 -m autoseg train ...``."""

from __future__ import annotations

from autoseg.cli import main

if __name__ == "__main__":
    main()
