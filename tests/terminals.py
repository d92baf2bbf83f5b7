"""A terminal at which somebody types."""

import os
import pty
import re
import select
import subprocess
import time

QUESTION = "prompt: "


def type_at(command: list[str], typed: list[tuple[str, str]], seconds: float = 60) -> tuple[int, str]:
    """Run a command on a terminal; return its exit status and what was shown.

    Args:
        typed: what is to be shown since the one before, and what is then typed.
    """
    terminal, other = pty.openpty()
    # Not pty.fork: a copy of a process that has run a thousand tests may be more than there is memory for.
    child = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=other, stdout=other, stderr=other, env=os.environ | {"TERM": "dumb"}
    )
    os.close(other)
    shown, deadline, answered, seen = b"", time.monotonic() + seconds, 0, 0
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                read = os.read(terminal, 1 << 16)
            except OSError:  # how Linux tells that nobody is at the other end
                break
            if not read:
                break
            shown += read
        if answered < len(typed) and typed[answered][0].encode() in shown[seen:]:
            seen = len(shown)
            os.write(terminal, typed[answered][1].encode())
            answered += 1
    else:
        child.kill()
    status = child.wait()
    os.close(terminal)
    return status, re.sub(r"\x1b\[\?2004[hl]\r?", "", shown.decode("utf-8")).replace("\r\n", "\n")
