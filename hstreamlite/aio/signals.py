"""How a process with an event loop may end, so that its stores are closed."""

from __future__ import annotations

import asyncio
import signal


def exit_on_sigterm() -> None:
    """Turn SIGTERM into the cancellation of this task, and into SystemExit(143) when it has ended.

    So `async with` blocks are left, stores closed and runs of consumers drained, as after Ctrl-C in
    `asyncio.run`. Call it in the main task; a further SIGTERM is ignored.
    """
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is None:
        raise RuntimeError("exit_on_sigterm must be called in a task")
    ending: asyncio.Task[object] = task

    def exit_(ended: object) -> None:  # noqa: ARG001 - given to every callback
        raise SystemExit(128 + signal.SIGTERM)

    def end() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ending.add_done_callback(exit_)
        ending.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
