"""Where the preprocessed cases of a configuration lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoseg.values import Plan
from autoseg.workspace import Workspace

if TYPE_CHECKING:
    from autoseg.io.case_store import CaseStore

__all__ = ["case_store_of"]


def case_store_of(
    workspace: Workspace, plan: Plan, configuration: str, rebuild: Callable[[str], None] | None = None
) -> CaseStore:
    """The store of a configuration's preprocessed cases.

    Args:
        workspace: of the plan.
        plan: with the configuration.
        configuration: its name.
        rebuild: makes a case anew that turns out damaged.
    """
    from autoseg.io.case_store import CaseStore
    from autoseg.preprocessing.forward import parameters_key

    key = parameters_key(plan, plan.configuration(configuration))
    # equal parameters give equal cases, which are kept once: in the folder of the first configuration that has them
    first = next(each.name for each in plan.configurations if parameters_key(plan, each) == key)
    patch_size = plan.configuration(configuration).patch_size
    return CaseStore(workspace.preprocessed(first, key), patch_size=patch_size, rebuild=rebuild)
