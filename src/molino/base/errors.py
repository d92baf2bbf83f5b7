"""What can go wrong through no fault of the code, and the exit status that says which.

Every message is one line: what was asked, why it cannot be, what to do. The entry points print it without a
traceback (`debug=traceback` shows one) and leave with `exit_code`.
"""


class MolinoError(Exception):
    """Base of all errors a person can mend by changing what was asked or where it runs."""

    exit_code = 1


class ConfigError(MolinoError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(MolinoError):
    """A corpus, a tokenizer or a prompt cannot be used."""

    exit_code = 3


class CheckpointError(MolinoError):
    """A run or a checkpoint is missing, damaged, finished or does not fit."""

    exit_code = 4


class ResourceError(MolinoError):
    """The machine lacks something: a GPU, disk space, a permission."""

    exit_code = 5


class NonFiniteError(MolinoError):
    """The loss or a gradient became nan or inf."""

    exit_code = 6


class Interrupted(MolinoError):
    """A signal asked the run to stop; it saved a checkpoint first. Exit status 128 + signal, as shells count."""

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.exit_code = 128 + signum


class Lost(Interrupted):
    """A process of the run was ended from outside, and the others with it. It can go on from what was saved before."""


class Followed(MolinoError):
    """A process of a run ends because another one has failed, or for a reason that has been told: nobody says it."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class SweepFailed(MolinoError):
    """Runs of a sweep failed; the exit status is that of the first of them."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
