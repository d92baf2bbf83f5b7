"""Imports that others do for nothing, left out."""

import re

LEFT_OUT = ("transformers", "matplotlib", "scipy")


def keep_imports_light() -> None:
    """Have torchmetrics go without what it would import where it is installed; call it before Lightning is imported.

    Lightning imports torchmetrics, and that these packages for metrics and plots which nothing here uses: two seconds
    of every start. Whoever wants them still imports them.
    """
    from lightning_utilities.core import imports
    from lightning_utilities.core.imports import RequirementCache

    check, available = RequirementCache._check_requirement, imports.package_available

    def check_unless_left_out(cache: RequirementCache) -> None:
        if re.match(r"\w+", cache.requirement)[0] in LEFT_OUT:
            cache.available, cache.message = False, "left out by molino"
        else:
            check(cache)

    RequirementCache._check_requirement = check_unless_left_out
    imports.package_available = lambda name: name not in LEFT_OUT and available(name)
