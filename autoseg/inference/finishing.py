"""What follows the networks, in a thread of its own, so that they are at the next image meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Finishing"]


class Finishing:
    """Finishes one case at a time beside the networks. A context manager, which waits for the last one.

    Args:
        ended: called for each case when it is finished, in the thread that gives work: its id, and the error if it failed.
    """

    def __init__(self, ended: Callable[[str, Exception | None], None]) -> None:
        self._ended, self._pool = ended, ThreadPoolExecutor(1, thread_name_prefix="finishing")
        self._pending: tuple[str, Future[None]] | None = None

    def __enter__(self) -> Finishing:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.settle()
        finally:
            self._pool.shutdown(wait=True)

    def give(self, case_id: str, work: Callable[[], None], *, beside: bool) -> None:
        """Finishes a case, after the one before: beside what follows, or at once.

        Args:
            case_id: its id.
            work: raises what the case fails of.
            beside: memory has room for what it holds, and for the next image.
        """
        self.settle()
        self._pending = case_id, self._pool.submit(work)
        if not beside:
            self.settle()

    def settle(self) -> None:
        """Waits until the case that was given last is finished."""
        if self._pending is None:
            return
        (case_id, work), self._pending = self._pending, None
        try:
            work.result()
        except Exception as error:  # one bad case costs one case
            self._ended(case_id, error)
        else:
            self._ended(case_id, None)
