"""Parts: plugs that a user names instead of the planner's; and PartRecord: where the code of one came from."""

from __future__ import annotations

import msgspec

from autoseg.values.json_form import Value
from autoseg.values.plan import PART_FIELDS, Configuration, Plan

__all__ = ["PartRecord", "Parts"]


class PartRecord(Value, frozen=True, kw_only=True):
    """Where the code behind a plug came from, for whoever has to find it again.

    Attributes:
        kind: of the plug.
        name: in the plan.
        package: that has it as an entry point; empty for a file of the user's own.
        version: of that package.
        file: name of the user's own file; empty for a package.
        sha256: of that file.
    """

    kind: str
    name: str
    package: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""

    @property
    def origin(self) -> str:
        """In words: what has it."""
        return f"the package {self.package} {self.version}" if self.package else f"the file {self.file}"

    @property
    def remedy(self) -> str:
        """In words: how to get it."""
        if self.package:
            return f"The model was trained with that of {self.origin}: pip install {self.package}=={self.version}"
        return (
            f"The model was trained with that of {self.origin} (SHA-256 {self.sha256[:12]}…): "
            "put this file into the current folder."
        )


class Parts(Value, frozen=True, kw_only=True):
    """Names of plugs that the user wants instead of the planner's; an empty one is not wished for."""

    network: str = ""
    loss: str = ""
    recipe: str = ""
    optimizer: str = ""
    schedule: str = ""

    @property
    def chosen(self) -> dict[str, str]:
        """Kind to name of those that are wished for."""
        return {kind: name for kind in self.__struct_fields__ if (name := getattr(self, kind))}

    @property
    def title(self) -> str:
        """Readable and short: ``loss=focal+optimizer=sgd``; of ``module:name`` the name."""
        return "+".join(f"{kind}={name.rpartition(':')[2]}" for kind, name in self.chosen.items())

    def in_configuration(self, configuration: Configuration) -> Configuration:
        """The configuration with these parts in place of its own."""
        for kind, name in self.chosen.items():
            group, _, field = PART_FIELDS[kind].partition(".")
            changed = msgspec.structs.replace(getattr(configuration, group), **{field: name})
            configuration = msgspec.structs.replace(configuration, **{group: changed})
        return configuration

    def in_plan(self, plan: Plan) -> Plan:
        """The plan with these parts in every configuration."""
        changed = tuple(map(self.in_configuration, plan.configurations))
        return msgspec.structs.replace(plan, configurations=changed)
