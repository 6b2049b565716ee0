# SPDX-License-Identifier: Apache-2.0
"""Shows a recording and what the model makes of it, as a page in the browser (docs/viewer.md).

    python -m gaussianocc_core.view recordings/drive_7                     # a bag, or a folder of bags
    python -m gaussianocc_core.view data/street --checkpoint mine.safetensors   # a nuScenes or DDAD folder
    python -m gaussianocc_core.view synthetic                              # a street of our own: no data needed

Then open the address that it prints. The model runs as you play; what it computed is kept. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gaussianocc_core.command_line import run_command, run_tool

SYNTHETIC = "synthetic"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gaussianocc_core.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="bag or folder of bags, nuScenes or DDAD folder, or the word synthetic")
    parser.add_argument("--checkpoint", help="model file of the second stage (default: tiny, which ships)")
    parser.add_argument("--scene", help="the scene or bag to begin with (default: the first)")
    parser.add_argument("--version", default="", help="nuScenes' version folder (default: the one that is there)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at; 0.0.0.0 lets the whole network look (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="of the page; 0: any that is free (default: %(default)s)"
    )
    parser.add_argument("--viewers", type=int, default=8, help="how many may look at once (default: %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, openvino ..., see deploy.md (default: %(default)s)"
    )
    parser.add_argument(
        "--caution",
        type=float,
        metavar="C",
        help="0 to 1; higher misses fewer obstacles and shows more ghosts (default: the model's)",
    )
    parser.add_argument(
        "--made", type=Path, default=Path("out/synthetic"), help="folder of the synthetic street (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: view(options), "stopped")


def view(options: argparse.Namespace) -> int:
    from gaussianocc_core.checkpoint import default_checkpoint
    from gaussianocc_core.errors import ConfigError
    from gaussianocc_core.models.decision import check_caution
    from gaussianocc_core.predictor import OccupancyPredictor
    from gaussianocc_core.viewer.drive import Drive, choose_scene, find_source
    from gaussianocc_core.viewer.page import Page, Where
    from gaussianocc_core.viewer.player import Player, timeline_of

    checkpoint = options.checkpoint or default_checkpoint()
    if checkpoint is None:
        raise ConfigError("no weights are shipped with this installation; give --checkpoint FILE")
    try:
        where = Where(options.host, options.port, options.viewers)
        if options.caution is not None:
            check_caution(options.caution)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    made = options.source == SYNTHETIC and not Path(SYNTHETIC).exists()
    source = find_source(_street(options.made) if made else options.source, options.version)
    scene = choose_scene(source, options.scene)
    predictor = OccupancyPredictor.from_checkpoint(checkpoint, options.device, options.caution)
    drive = Drive(source, scene, predictor)
    scenes = source.scene_names()
    page = Page(f"GaussianOcc · {Path(options.source).name or options.source}", where, timeline_of(drive, scenes))
    player = Player(page, lambda name: Drive(source, name, predictor), scenes, drive)
    others = f"; {len(scenes)} scenes, to be chosen on the page" if len(scenes) > 1 else ""
    sys.stdout.write(f"{predictor.summary}\n{len(drive)} moments of {scene}{others}\n")
    try:
        sys.stdout.write(f"look at {page.url}   (Ctrl-C ends it)\n")
        sys.stdout.flush()
        page.wait()
    except KeyboardInterrupt:  # how it is meant to end
        sys.stdout.write("stopped\n")
    finally:
        player.close()
        page.close()
    return 0


def _street(folder: Path) -> Path:
    """Our own street, made once: three seconds at 12 Hz, with truth."""
    from gaussianocc_core.synthetic.writer import write_dataset

    if not folder.exists():
        sys.stdout.write(f"making a street in {folder}; this takes a minute, once\n")
        write_dataset(folder, scenes=1, frames=6, seed=7)
    return folder


if __name__ == "__main__":
    sys.exit(run_tool(main))
