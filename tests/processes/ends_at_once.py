"""A module whose import ends the process, as a broken installation may."""

from __future__ import annotations

import os

from autoseg.values import Value

if os.environ.get("AUTOSEG_TEST_END"):
    os._exit(9)


class Never(Value, frozen=True, kw_only=True):
    def __call__(self, item: int) -> int:
        return item
