# SPDX-License-Identifier: MIT
"""What all tests share: the folder of shared files and a deterministic Hypothesis."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples on every run and machine; CERTCAL_HYPOTHESIS=search looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=150)
settings.register_profile("search", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile(os.environ.get("CERTCAL_HYPOTHESIS", "fixed"))


# A shell starts what runs in the background with Ctrl-C ignored; the tests are about what it does in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What a test may want, and a machine that runs other tests may lack.
OPTIONAL = (
    *("highspy", "typer", "rich", "matplotlib", "jinja2", "torchmetrics", "sklearn", "pandas"),
    *("torchvision", "PIL", "sphinx"),
)


class SkippingModule(pytest.Module):
    """A file of tests; one that imports something optional that is not there is skipped, and the others run."""

    def _getobj(self) -> Any:
        try:
            return super()._getobj()
        except (self.CollectError, SystemExit) as error:  # the command line leaves so
            cause: BaseException | None = error
            while cause is not None:
                name = str(getattr(cause, "name", None) or "").split(".")[0]
                if isinstance(cause, ModuleNotFoundError) and name in OPTIONAL:
                    pytest.skip(f"{name} is not installed", allow_module_level=True)
                cause = cause.__cause__ or cause.__context__
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    module: pytest.Module = SkippingModule.from_parent(parent, path=module_path)
    return module


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference files beside the repository; skips where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("CERTCAL_SHARED", default))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no shared files in {folder}; set CERTCAL_SHARED to their folder")
    return folder
