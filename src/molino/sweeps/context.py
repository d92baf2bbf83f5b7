"""What a further process needs to train runs of a sweep: the command's configuration, and where it was typed."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.utils import JobRuntime, run_job, setup_globals
from omegaconf import DictConfig, open_dict

from molino.sweeps.job import directory_of, output_to

LOG = "log.txt"


@dataclass
class Context:
    """The surroundings of a sweep's command, to be sent to other processes.

    Attributes:
        hydra: Hydra's context, with its loader of configuration files.
        config: what was composed of the command.
        task: what Hydra calls with a composed configuration; see molino.command.entry.
    """

    hydra: Any
    config: DictConfig
    task: Callable[..., Any]
    arguments: list[str] = field(default_factory=lambda: list(sys.argv))
    folder: str = field(default_factory=lambda: str(Path.cwd()))

    def enter(self) -> None:
        """Make this process one of the sweep's."""
        os.chdir(self.folder)
        sys.argv = list(self.arguments)
        setup_globals()
        version.setbase("1.3")
        JobRuntime.instance().set("name", self.config.hydra.job.name)

    def train(self, overrides: list[str]) -> None:
        """Train the run of these overrides; whatever it prints goes to `log.txt` in its directory."""
        config = self.hydra.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = 0
        with output_to(directory_of(config.hydra) / LOG):
            run_job(
                hydra_context=self.hydra,
                task_function=self.task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
