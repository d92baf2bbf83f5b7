"""The processes of a run that somebody else has started: the first settles all, the others train what it hands over.

They meet in a folder below paths.outputs, before they have another way to speak to each other. Each has a file there,
with a name that nobody else ever had, and holds its lock while it lives. What the first one tells names the files of
those that it is for: what an earlier start has left behind is for nobody. Nobody waits for one that is dead.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from molino.base.errors import Followed, Interrupted, Lost, ResourceError
from molino.base.files import is_locked, lock, make_directory, write_text
from molino.base.messages import complain, explain, typed
from molino.base.processes import Place, started
from molino.configuration.identity import canonical
from molino.configuration.request import Request

FOLDER = ".meetings"
BETWEEN_LOOKS = 0.2  # seconds
COMING = 600.0  # seconds from the first process that is there to the last one: imports from a cold disk take minutes
LEAVING = 60.0  # seconds for which one that fails waits for others to come and hear of it
KILL = int(signal.SIGKILL)
DIED = ResourceError.exit_code
GRACE = 20.0  # seconds that a process has to find out by itself that another one is gone
AT_ONCE = 2.0  # seconds in which a process finds out by itself what stops all of them


class Meeting:
    """What the processes of a run have in common.

    Args:
        folder: where they meet.
        place: of this process.
        name: of its own file there.
    """

    def __init__(self, folder: Path, place: Place, name: str):
        self.folder, self.place, self.name = folder, place, name
        self.is_first = place.rank == 0
        self._told = 0
        self._others: list[str] = []

    @contextmanager
    def handed_over(self, request: Request) -> Iterator[None]:
        """Have the others train this request meanwhile, as this process does. A further process was handed it itself.

        Raises:
            ResourceError: one of them is not there.
            Interrupted: one of them was killed. What was saved before can be gone on with.
        """
        if self.is_first:
            self._gather(COMING)
            os.environ.setdefault("MASTER_ADDR", self._address())
            os.environ.setdefault("MASTER_PORT", str(_free_port()))
            self._tell(request=request.to_text(), **{name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")})
        try:
            with self._watching(request):
                yield
        except Exception as error:
            # Whoever shares a step with one that has died is told so by what connects them, in its own words.
            if explain(error) is None and _wait(lambda: bool(self._dead()), AT_ONCE):
                raise self._lost(request) from error
            raise

    def follow(self) -> Iterator[Request]:
        """Yield what the first process hands over, until it has nothing more.

        Raises:
            Followed: it has failed or died, or never came.
        """
        while (told := self._hear())["request"] is not None:
            os.environ |= {name: told[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
            yield Request.from_text(told["request"])
        if told["status"]:
            raise Followed("the first process of the run has failed", told["status"])

    def end(self, status: int) -> None:
        """Tell the others that there is nothing more, wait until they have heard it, and leave nothing behind.

        Args:
            status: what this process will end with.
        """
        if status and threading.current_thread() is threading.main_thread():
            # Who has started them ends all when one has ended, and this one has yet to say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(ResourceError):
            # Of a signal all have heard, and some may have ended.
            self._gather(LEAVING if status < 128 else 0)
        self._tell(request=None, status=status)
        _wait(lambda: len(self._dead()) == len(self._others), GRACE)
        remove(self.folder)

    def leave(self) -> None:
        """Take this process off the list; the last one leaves nothing behind."""
        (self.folder / self.name).unlink(missing_ok=True)
        if not self._living():
            remove(self.folder)

    def _gather(self, seconds: float) -> None:
        """Wait until all others are there."""
        if self._others:
            return
        found: dict[int, str] = {}

        def all_there() -> bool:
            for name in self._living():
                rank = int(name.partition("-")[0])
                if found.setdefault(rank, name) != name:
                    raise ResourceError(
                        f"two processes are number {rank} of the same start: give one of the runs another name, or "
                        "another paths.outputs"
                    )
            return len(found) == self.place.size

        came = _wait(all_there, seconds)
        self._others = [name for rank, name in sorted(found.items()) if rank]
        if not came:
            absent = next(rank for rank in range(self.place.size) if rank not in found)
            raise ResourceError(
                f"process {absent} of the {self.place.size} that {self.place.by} has started has not come within "
                f"{seconds:.0f} s: see what it says, and whether all nodes see {self.folder.parent}"
            )

    def _tell(self, **what: Any) -> None:
        self._told += 1
        told = {"from": self.name, "to": self._others, **what}
        write_text(self.folder / f"told-{self._told}.json", json.dumps(told))

    def _hear(self) -> dict[str, Any]:
        """Return what is told next."""
        self._told += 1
        file, first, seen = self.folder / f"told-{self._told}.json", None, time.monotonic()
        while True:
            # Before the file is looked at: whoever has gone may have told something before.
            here = next((name for name in self._living() if name.startswith("0-")), None)
            with suppress(OSError, ValueError):
                told = json.loads(file.read_text("utf-8"))
                if self.name in told["to"]:
                    self._others = [told["from"]]
                    return told
            first = first or here
            if here is not None:
                seen = time.monotonic()
            elif first is not None or time.monotonic() - seen > COMING:
                how = "has ended without a word" if first else f"has not come within {COMING:.0f} s"
                where = "" if first else f", and whether all nodes see {self.folder.parent}"
                raise self._alone(f"the first process of the {self.place.size} {how}: see what it says{where}", DIED)
            time.sleep(BETWEEN_LOOKS)

    def _address(self) -> str:
        return "127.0.0.1" if len(self.place.per_node) == 1 else socket.gethostname()

    def _living(self) -> list[str]:
        """Return the files of those that are there."""
        with suppress(OSError):
            names = [path.name for path in self.folder.iterdir()]
            return [name for name in names if name[0].isdigit() and self._lives(name)]
        return []

    def _lives(self, name: str) -> bool:
        return is_locked(self.folder / name)

    def _dead(self) -> list[str]:
        return [name for name in self._others if not self._lives(name)]

    def _ended(self) -> int:
        """Return the exit status of the first process where it has said that it fails, else 0."""
        with suppress(OSError, ValueError, KeyError):
            told = json.loads((self.folder / f"told-{self._told + 1}.json").read_text("utf-8"))
            return told["status"] if self.name in told["to"] else 0
        return 0

    def _lost(self, request: Request) -> Exception:
        """Return what is wrong where another process has died. What was saved before can be gone on with."""
        said = f"a process of the run has died: go on with {typed('train', f'resume={request.path}')}"
        return Lost(said, KILL) if self.is_first else self._alone(said, 128 + KILL)

    def _alone(self, said: str, status: int) -> Followed:
        """Return what is wrong where the first process is gone: the next one says it for all."""
        if self.place.rank == 1:
            complain(ResourceError(said))
        return Followed(said, status)

    def _exit(self, status: int) -> NoReturn:
        """End this process, which waits for others where no exception reaches it."""
        self.leave()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)

    @contextmanager
    def _watching(self, request: Request) -> Iterator[None]:
        """End this process where it would wait for one that has failed or died."""
        left = threading.Event()

        def watch() -> None:
            while not left.wait(BETWEEN_LOOKS * 5):
                if not self.is_first and (status := self._ended()) and not left.wait(AT_ONCE):
                    self._exit(status)
                if self._dead() and not left.wait(GRACE):
                    complain(self._lost(request))
                    self._exit(128 + KILL)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            left.set()


@contextmanager
def meet(request: Request) -> Iterator[Meeting | None]:
    """Bring the processes together that somebody has started for a run; None where this one is alone.

    What goes wrong is told once: by the first process, or by the one that it goes wrong with.

    Raises:
        Followed: another process has failed, or this one, and has said why.
    """
    place = started()
    if place is None or place.size == 1:
        yield None
        return
    asked = str(request.path) if request.path else request.overrides
    outputs = Path(request.settings["paths"]["outputs"])
    folder = outputs / FOLDER / f"{place.job}-{hashlib.sha256(canonical(asked).encode()).hexdigest()[:12]}"
    name = f"{place.rank}-{uuid.uuid4().hex}"
    make_directory(folder, "; set paths.outputs")
    meeting = Meeting(folder, place, name)
    with lock(folder / name, hint="; set paths.outputs"):
        yield from _first(meeting) if meeting.is_first else _further(meeting)


def _first(meeting: Meeting) -> Iterator[Meeting]:
    try:
        yield meeting
    except BaseException as error:
        other = 130 if isinstance(error, KeyboardInterrupt) else 1
        meeting.end(getattr(explain(error), "exit_code", other))
        raise
    meeting.end(0)


def _further(meeting: Meeting) -> Iterator[Meeting]:
    try:
        yield meeting
    except Exception as error:
        explained = explain(error)
        if explained is None or isinstance(explained, Interrupted):
            raise
        complain(explained)
        raise Followed(str(explained), explained.exit_code) from error
    finally:
        meeting.leave()


def remove(folder: Path) -> None:
    """Remove the folder of a meeting, and those around it if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for each in (folder.parent, folder.parent.parent):
        with suppress(OSError):
            each.rmdir()


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, but no longer than so many seconds; tell whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(BETWEEN_LOOKS)
    return True


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]
