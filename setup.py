# SPDX-License-Identifier: Apache-2.0
"""For pip. ROS builds with CMakeLists.txt; the commands of both stand in setup.cfg."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    # Read, not imported: at build time the package's dependencies are not there.
    text = (ROOT / "gaussianocc_core" / "_version.py").read_text()
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert match, "gaussianocc_core/_version.py must define __version__"
    return match.group(1)


def readme() -> str:
    path = ROOT / "README.md"
    return path.read_text() if path.exists() else ""


setup(
    name="gaussianocc-ros",
    version=version(),
    description="Camera-only, self-supervised 3D semantic occupancy: GaussianOcc as a ROS 2 package",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="GaussianOcc for ROS 2 authors",
    keywords=["occupancy", "perception", "ROS 2", "self-supervised", "cameras", "Gaussian splatting", "robotics"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.13",
    packages=[*find_packages(include=["gaussianocc_core*", "gaussianocc_ros*"]), "gaussianocc_core.commands"],
    package_dir={"gaussianocc_core.commands": "tools"},
    package_data={"gaussianocc_core": ["weights/*"]},
    # Ranges; only the lock of the development environment pins. rclpy and the messages come from ROS, never from pip.
    install_requires=[
        "dacite>=1.8",
        "jaxtyping>=0.2.25",
        "numba>=0.59",
        "numpy>=1.26",
        "opencv-python-headless>=4.10,<5",
        "pyyaml>=6",
        "safetensors>=0.4",
        "torch>=2.1",
        "tqdm>=4.60",
    ],
    extras_require={
        "train": ["gsplat>=1.5.3,<1.6", "tensorboard"],
        # Other runtimes than torch for a robot, and the export to them. With a GPU: onnxruntime-gpu for onnxruntime.
        "deploy": ["onnx>=1.16", "onnxruntime>=1.18", "openvino>=2024.4"],
        "octomap": ["octomap-python>=1.10,<2"],  # maps as OctoMap's trees too
        "tools": ["nuscenes-devkit>=1.2", "rosbags>=0.11.9,<0.12", "transformers>=4.46,<5"],
        "video": ["av>=17,<19"],
        "viewer": ["imageio-ffmpeg", "pillow>=10.1", "rosbags>=0.11.9,<0.12", "viser>=1.1,<1.2"],
        "test": ["beartype", "hypothesis", "playwright", "pytest"],
    },
)
