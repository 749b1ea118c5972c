"""``fastmte`` with a backbone that is small enough, and with an accident on request.

``KILL=RANK`` kills that process in its first life, at the first step of the second epoch.
"""

import os
import signal
from typing import Any

from tiny import Tiny

from fastmte.cli import main
from fastmte.models import _registry
from fastmte.train.group import Group


def _kill_at_step(number: int) -> None:
    step = Group.step

    def stepped(self: Group, *args: Any, **more: Any) -> Any:
        if args[3] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args, **more)

    Group.step = stepped  # type: ignore[method-assign]


if __name__ == "__main__":
    _registry._BUILDERS["tiny"] = Tiny
    is_first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_first_life and os.environ.get("KILL") == os.environ["RANK"]:
        _kill_at_step(3)
    main(prog_name="fastmte")
