"""Imports that others do for nothing, left out."""

import re

LEFT_OUT = ("transformers", "matplotlib")


def keep_imports_light() -> None:
    """Have torchmetrics, which Lightning imports, go without transformers and matplotlib; call it before either.

    Where they are installed it imports them, for metrics and plots that nothing here uses, which takes two seconds of
    every start. Whoever wants them still imports them.
    """
    from lightning_utilities.core.imports import RequirementCache

    check = RequirementCache._check_requirement

    def check_unless_left_out(cache: RequirementCache) -> None:
        if re.match(r"\w+", cache.requirement)[0] in LEFT_OUT:
            cache.available, cache.message = False, "left out by molino"
        else:
            check(cache)

    RequirementCache._check_requirement = check_unless_left_out
