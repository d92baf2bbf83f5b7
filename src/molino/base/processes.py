"""This process among those that work together."""

import os

# In the environment of a process that is started by a command: the request that it is to train, in place of what its
# command says.
HANDED = "MOLINO_REQUEST"


def is_main_process() -> bool:
    """Tell whether this process writes the run directory: the first of a distributed run, or the only one."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
