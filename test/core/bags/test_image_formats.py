# SPDX-License-Identifier: Apache-2.0
"""What the format of an image message means for its colours, as ROS's own publishers and subscribers have it."""

import cv2
import numpy as np
import pytest
from support.robot_bags import START_NS, RobotBag, header, message, picture

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.messages import ImageError, decode_image, decode_reduced
from gaussianocc_core.data.bag import BagSource

RED, SIZE = (200, 60, 20), (64, 48)


def compressed(form: str, pixels: np.ndarray, ending: str) -> object:
    data = cv2.imencode(ending, pixels, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].ravel()
    return message("sensor_msgs/msg/CompressedImage", header=header(START_NS, "c"), format=form, data=data)


def raw(encoding: str, data: np.ndarray, step: int, big: int = 0) -> object:
    return message(
        "sensor_msgs/msg/Image",
        header=header(START_NS, "c"),
        height=SIZE[1],
        width=SIZE[0],
        encoding=encoding,
        is_bigendian=big,
        step=step,
        data=data.view(np.uint8).ravel(),
    )


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind that pattern of filters sees: its first row begins with the first two letters."""
    seen = np.zeros(rgb.shape[:2], rgb.dtype)
    for i, letter in enumerate(pattern):
        seen[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "rgb".index(letter)]
    return seen


def wall(color=RED) -> np.ndarray:
    return np.tile(np.array(color, np.uint8), (SIZE[1], SIZE[0], 1))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_compressed_mosaic_is_demosaiced(pattern, ending):
    image = compressed(f"bayer_{pattern}8; jpeg compressed ", mosaic(wall(), pattern), ending)
    np.testing.assert_allclose(decode_image(image).reshape(-1, 3).mean(0), RED, atol=2)
    assert np.ptp(decode_image(image)[10:12, 10:12, 0]) <= 6  # no pattern is left
    pixels, reduce = decode_reduced(image, 4)  # neighbours are of other colours: it may not be shrunk on the way
    assert reduce == 1 and pixels.shape[:2] == (SIZE[1], SIZE[0])


def test_a_mosaic_that_its_publisher_turned_into_colors_is_left_as_it_is():
    image = compressed("bayer_rggb8; jpeg compressed bgr8", wall()[..., ::-1], ".jpg")
    np.testing.assert_allclose(decode_image(image).reshape(-1, 3).mean(0), RED, atol=2)


def test_a_grey_camera_stays_grey_and_an_unknown_mosaic_is_refused_by_name():
    grey = cv2.cvtColor(picture(1, SIZE), cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(decode_image(compressed("mono8; png compressed ", grey, ".png"))[..., 0], grey)
    with pytest.raises(ImageError, match=r"'bayer_rggb12' is not supported"):
        decode_image(compressed("bayer_rggb12; png compressed ", grey, ".png"))


@pytest.mark.parametrize(
    ("form", "order"),
    [
        ("jpeg", "bgr"),
        ("bgr8; jpeg compressed bgr8", "bgr"),
        ("rgb8; jpeg compressed bgr8", "bgr"),
        ("rgb8; jpeg compressed rgb8", "rgb"),
        ("rgb8; png compressed rgb8", "rgb"),
        ("png", "bgr"),
    ],
)
def test_red_is_red_whatever_order_the_publisher_gave_its_encoder(form, order):
    given = wall() if order == "rgb" else wall()[..., ::-1]
    image = compressed(form, given, ".png" if "png" in form else ".jpg")
    np.testing.assert_allclose(decode_image(image).reshape(-1, 3).mean(0), RED, atol=2)
    np.testing.assert_allclose(decode_reduced(image, 2)[0].reshape(-1, 3).mean(0), RED, atol=2)


def test_a_bag_of_compressed_mosaics_has_colors(tmp_path):
    robot = RobotBag()
    for _, _, content in robot.messages:
        if hasattr(content, "format"):
            rgb = cv2.imdecode(content.data, cv2.IMREAD_COLOR)[..., ::-1]
            content.format = "bayer_rggb8; jpeg compressed "
            content.data = cv2.imencode(".jpg", mosaic(rgb, "rggb"), [cv2.IMWRITE_JPEG_QUALITY, 98])[1].ravel()
    entries = BagSource(open_index(robot.write(tmp_path / "bag"))).entries()
    difference = np.abs(entries[2].load().images[0].astype(int) - robot.picture(2, 0))
    assert difference.mean() < 8  # two pictures of noise differ by 50


def test_of_sixteen_bits_the_upper_eight_are_kept_in_either_order():
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[1], SIZE[0])
    for big in (0, 1):
        found = decode_image(raw("mono16", values.byteswap() if big else values, 2 * SIZE[0], big))
        np.testing.assert_array_equal(found[..., 0], values >> 8)
    red = mosaic(wall().astype(np.uint16) << 8, "rggb")
    found = decode_image(raw("bayer_rggb16", red, 2 * SIZE[0]))
    np.testing.assert_allclose(found.reshape(-1, 3).mean(0), RED, atol=1)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (raw("nv12", np.zeros(SIZE[0] * SIZE[1] * 3 // 2, np.uint8), SIZE[0]), "'nv12' is not supported"),
        (raw("16UC1", np.zeros(SIZE[0] * SIZE[1] * 2, np.uint8), 2 * SIZE[0]), "'16UC1' is not supported"),
        (raw("rgb8", np.zeros(SIZE[0] * SIZE[1] * 3, np.uint8), 0), "needs step >= 192"),
        (compressed("webp", wall(), ".webp"), "neither a JPEG nor a PNG"),
    ],
)
def test_formats_that_are_not_read_are_refused_by_name(image, said):
    with pytest.raises(ImageError, match=said):
        decode_image(image)
