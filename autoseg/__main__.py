"""``python -m autoseg``, which torchrun can start several times: ``torchrun --nproc-per-node 2 -m autoseg train ...``."""

from __future__ import annotations

from autoseg.cli import main

if __name__ == "__main__":
    main()
