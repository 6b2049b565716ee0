#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Convert released GaussianOcc weights (.pth files of one folder) into one model file of this project."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_tool

EXAMPLES = """examples:
  # the full network with its pose networks: encoder.pth, depth.pth, pose_encoder.pth, pose.pth
  python tools/import_reference_checkpoint.py ckpts/nusc-sem-gs out/gaussianocc.safetensors

  # first-stage pose networks only (pose_encoder.pth, pose.pth), for training
  python tools/import_reference_checkpoint.py ckpts/stage1_pose_nusc out/pose.safetensors

  # then, for example
  python -m gaussianocc_core.evaluate out/gaussianocc.safetensors --dataroot data/nuscenes

The file holds the configuration `reference` with the oddities of the published code turned on, so that the weights run
as they were trained. Nothing in the .pth files is executed. Mind the licence of the weights you convert.
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with the released .pth files")
    parser.add_argument("output", type=Path, metavar="OUT.safetensors", help="model file to write")
    parser.add_argument("--config", type=Path, metavar="FILE", help="model configuration (default: reference)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is already there")
    parser.add_argument("--verbose", action="store_true", help="name every ignored entry")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    from gaussianocc_core.config import find_model_config, load_config
    from gaussianocc_core.errors import CheckpointError, GaussianOccError
    from gaussianocc_core.models.config import ModelConfig
    from gaussianocc_core.reference.release import import_release

    try:
        if options.output.suffix != ".safetensors":
            raise CheckpointError(f"{options.output}: the name of a model file ends in .safetensors")
        if options.output.exists() and not options.overwrite:
            raise CheckpointError(f"{options.output}: exists already; give another name or --overwrite")
        config = load_config(options.config or find_model_config("reference"), ModelConfig)
        release = import_release(options.folder, options.output, config)
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {options.output}: cannot be written ({error.strerror}); free space or choose another folder",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped: nothing was written", file=sys.stderr)
        return 130
    used = Counter(source.network for source in release.used)
    ignored = Counter(source.network for source in release.ignored)
    for network in used | ignored:
        print(f"{network:13} {used[network]:4} tensors used, {ignored[network]:3} unused ones ignored, 0 missing")
    if options.verbose:
        for source in release.ignored:
            print(f"  ignored {source.network}: {source.name}")
    for name, network in (("occupancy network", release.model), ("pose networks", release.pose_net)):
        if network is None:
            print(f"no {name} in this folder: the file serves {'inference' if release.model else 'training'} only")
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
