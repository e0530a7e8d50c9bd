"""What `import railsformer` offers."""

import subprocess
import sys

import pytest

import railsformer


@pytest.mark.parametrize("name", railsformer.__all__)
def test_every_public_name_is_there(name):
    assert getattr(railsformer, name).__name__ == name


def test_importing_the_package_does_not_import_torch():
    code = "import sys, railsformer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        railsformer.Nope  # noqa: B018
