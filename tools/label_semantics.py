#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Label images for training with a semantic segmentation model: of a nuScenes-format data set or of bags. No ROS."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run by path, a clone uses the package beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gaussianocc_core.command_line import run_command, run_tool

EXAMPLES = """\
examples:
  # bags of your robot; a model trained on Cityscapes or ADE20K needs no mapping
  python tools/label_semantics.py --bag recordings/ --model ~/models/segformer --picture out/labels.png
  python -m gaussianocc_core.train config/my_robot_gsv.yaml data.bag.labels=recordings/labels

  # a data set in the nuScenes schema: keyframes, into DIR/nuscenes_semantic/
  python tools/label_semantics.py --dataroot ~/data/nuscenes --version v1.0-mini --scene scene-0061 --model ~/models/b5

The model is a folder as save_pretrained of the library `transformers` writes it: config.json, preprocessor_config.json,
model.safetensors. Nothing is downloaded and no code of the folder runs. A mapping is a YAML file with lines
`class of the model: Occ3D class`, see config/labels/. An interrupted run goes on where it was.
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run tidies up as an interrupted one does
    return run_command(lambda: label(options), "interrupted; the same command goes on from here")


def label(options: argparse.Namespace) -> int:
    # Imported here, because torch takes seconds and --help should not.
    from tqdm import tqdm

    from gaussianocc_core.bags.indexing import find_bags
    from gaussianocc_core.config import load_config
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.labels import FREE, IGNORE
    from gaussianocc_core.onboarding import labelling
    from gaussianocc_core.onboarding.moments import bag_moments, dataset_moments
    from gaussianocc_core.predictor import resolve_device

    labeller = labelling.Labeller(
        options.model, options.mapping, resolve_device(options.device), options.least_confidence
    )
    print(f"classes: {labeller.classes.origin}; {labeller.device}")
    if options.bag:
        config = replace(load_config(None, BagConfig, options.settings), path=str(options.bag))
        folder = options.output or find_bags(options.bag)[0].parent / "labels"
        moments = bag_moments(config)[:: options.every]
        targets = labelling.bag_targets(folder, moments)
    else:
        folder = options.dataroot / "nuscenes_semantic"
        moments = dataset_moments(
            options.dataroot, options.version, options.scene or (), options.sweeps, options.follow_outside
        )
        moments = moments[:: options.every]
        targets = labelling.dataset_targets(options.dataroot, moments)
    labelling.claim(targets, labeller.made_with(options.unknown_as_free), options.overwrite)
    images = sum(len(each) for each in targets)
    with tqdm(total=images, unit="image", desc="labelling", disable=None) as bar:
        unknown = FREE if options.unknown_as_free else IGNORE
        statistics = labelling.label_moments(labeller, moments, targets, options.batch, unknown, bar.update)
    print(labelling.describe(statistics))
    done = (pair for pair in zip(moments, targets, strict=True) if all(target.is_there() for target in pair[1]))
    if options.picture and (first := next(done, None)):
        write_picture(options.picture, *first)
    print(f"labels: {folder}" + (f"; training reads them with data.bag.labels={folder}" if options.bag else ""))
    return 1 if statistics.faults and not statistics.written and not statistics.there else 0


def write_picture(path: Path, moment, targets) -> None:
    from gaussianocc_core.onboarding.labelling_picture import label_picture
    from gaussianocc_core.viz.files import write_png

    write_png(path, label_picture(moment.load().images, [target.read() for target in targets], moment.cameras))
    print(f"picture: {path}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bag", type=Path, metavar="PATH", help="rosbag2: folder or file, or a folder of bags")
    where.add_argument("--dataroot", type=Path, metavar="DIR", help="data set: folder with samples/ and VERSION/")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of bags: settings of data.bag")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of bags: for labels (default: labels/ beside)")
    parser.add_argument("--version", default="v1.0-mini", help="of data sets: folder with the tables (%(default)s)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="of data sets: scenes to label (default: all)")
    parser.add_argument("--sweeps", action="store_true", help="of data sets: every image, not only keyframes")
    parser.add_argument("--follow-outside", action="store_true", help="follow links that lead out of the data root")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder of a segmentation model")
    parser.add_argument("--mapping", type=Path, metavar="FILE", help="its classes -> ours (default: the one that fits)")
    parser.add_argument("--least-confidence", type=float, default=0.5, metavar="P", help="less: no label (%(default)s)")
    parser.add_argument("--unknown-as-free", action="store_true", help="no label becomes free (sky), as published")
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="label each Nth moment (%(default)s)")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="remove labels that are there and label again")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG of the first moment, labels over the images")
    options = parser.parse_intermixed_args(arguments)
    if options.dataroot and (options.output or options.settings):
        parser.error("--output and key=value are for bags; labels of a data set go to DIR/nuscenes_semantic")
    if options.bag and (options.scene or options.sweeps):
        parser.error("--scene and --sweeps are for data sets; all images of a bag are labelled, or each --every")
    return options


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(run_tool(main))
