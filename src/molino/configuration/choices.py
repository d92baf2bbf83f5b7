"""Where the choices lie that Hydra composes: inside the installed package, or beside src/ in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = next((folder for folder in (_PACKAGE / "conf", _PACKAGE.parent.parent / "conf") if folder.is_dir()), _PACKAGE)
