"""A command whose workers sleep, for tests that kill it: python -m tests.processes.command FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from autoseg.processes.executor import ProcessExecutor
from tests.processes.tasks import Act, Work

if __name__ == "__main__":
    items = [
        Work(id=str(index), do="sleep", number=60, path=str(Path(sys.argv[1], f"{index}.pid"))) for index in range(2)
    ]
    with ProcessExecutor(2) as executor:
        try:
            list(executor.run(Act(), items))
        except KeyboardInterrupt:
            sys.exit(130)
