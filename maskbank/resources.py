"""Files that come with MaskBank: in the repository they lie beside the package, in a wheel inside of it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_HOME = _PACKAGE if (_PACKAGE / "weights").is_dir() else _PACKAGE.parent

WEIGHTS_FOLDER = _HOME / "weights"
FUNCTION_YAML = _HOME / "function.yaml"
INTERACTOR_YAML = _HOME / "interactor.yaml"
