# SPDX-License-Identifier: Apache-2.0
"""Compressed video in bags: real streams, encoded here, and what becomes of them where something is missing."""

import random
import re
import shutil
from fractions import Fraction

import numpy as np
import pytest
from support.robot_bags import START_NS, RobotBag
from support.video_streams import KINDS, LOSS, Coded, VideoBag, av, difference, encode, packet, scene

from gaussianocc_core.bags import indexing, video_runs
from gaussianocc_core.bags.h26x import HeaderReader
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.messages import ImageError, decode_image, decode_reduced
from gaussianocc_core.bags.reader import MessageReader
from gaussianocc_core.bags.video import FFMPEG_TYPE, FOXGLOVE_TYPE, VideoDecoder, VideoError, VideoStream, as_packet
from gaussianocc_core.data.bag import BagConfig, BagSource, open_bags
from gaussianocc_core.errors import BagError, GaussianOccError

SIZE = (64, 48)


def frames_of(bag: VideoBag, camera: int = 0) -> list[np.ndarray]:
    return [bag.picture(n, camera) for n in range(bag.frames)]


def messages(codec="h264", kind=FFMPEG_TYPE, count=12, size=SIZE, **options):
    frames = [scene(n, size) for n in range(count)]
    coded = encode(frames, codec, **options)
    return frames, [packet(kind, START_NS + each.frame, "c", each, size, codec) for each in coded]


def decode_all(contents, decoder=None):
    """Token -> picture or why there is none."""
    decoder, found = decoder or VideoDecoder(), {}
    for i, content in contents:
        try:
            found |= dict(decoder.feed(content, i))
        except VideoError as error:
            found[i] = str(error)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_of_video_gives_the_pictures_that_went_in(kind, codec, storage, tmp_path):
    bag = VideoBag(kind=kind, codec=codec)
    path = bag.write(tmp_path / "bag", storage)
    (source,) = open_bags(BagConfig(path=str(path)))
    assert source.problems == () and source.cameras.names == ("front", "left")
    entries = source.entries()
    assert len(entries) == bag.frames
    for n, entry in enumerate(entries):
        sample = entry.load()
        for i, pixels in enumerate(sample.images):
            assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
            assert difference(pixels, bag.picture(n, i)) < LOSS < difference(pixels, bag.picture(n + 1, i)) / 2
        for neighbour in sample.neighbours:
            assert difference(neighbour.images[0], bag.picture(n + neighbour.offset, 0)) < LOSS


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_pictures_in_any_order_are_those_of_a_straight_pass(codec, tmp_path):
    bag = VideoBag(codec=codec, kind=FOXGLOVE_TYPE)
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert (topic.size, len(topic), topic.frame_id) == (SIZE, bag.frames, "front_optical")
    straight = [decode_image(each) for each in MessageReader(index.path).read(list(topic))]
    order = list(range(bag.frames)) * 3
    random.Random(0).shuffle(order)
    reader = MessageReader(index.path)
    while order:
        wanted, order = order[:3], order[3:]
        for n, found in zip(wanted, reader.read([topic[n] for n in wanted]), strict=True):
            np.testing.assert_array_equal(decode_image(found), straight[n])


def test_a_reader_goes_on_where_it_can_and_keeps_the_last_pictures(tmp_path, monkeypatch):
    bag = VideoBag(gop=7)
    index = open_index(bag.write(tmp_path / "bag"))
    topic, fed = index.topics[bag.topic("front")], []
    feed = VideoDecoder.feed
    monkeypatch.setattr(VideoDecoder, "feed", lambda self, message, token: fed.append(1) or feed(self, message, token))
    reader = MessageReader(index.path)

    def cost(*wanted):
        fed.clear()
        reader.read([topic[n] for n in wanted])
        return len(fed)

    assert cost(3) == 4  # from the keyframe
    assert cost(4, 5) == 2  # goes on
    assert cost(3, 5) == 0  # kept
    assert cost(9) == 3  # from the next keyframe, which is nearer
    assert cost(8) == 2 and cost(12, 1) == 6 + 2
    monkeypatch.setattr(video_runs, "_PICTURE_BYTES", 3 * 64 * 48)  # two pictures
    reader = MessageReader(index.path)
    cost(0, 1, 2, 3)
    assert cost(2, 3) == 0 and cost(0) == 1
    assert len(reader._videos._kept) == 2


def test_several_cameras_far_apart_are_read_together(tmp_path):
    bag = VideoBag()
    index = open_index(bag.write(tmp_path / "bag"))
    topics = [index.topics[bag.topic(name)] for name in bag.cameras]
    wanted = [(i, n) for n in (13, 1, 6, 7) for i in (1, 0)]
    found = MessageReader(index.path).read([topics[i][n] for i, n in wanted])
    for (i, n), each in zip(wanted, found, strict=True):
        assert difference(decode_image(each), bag.picture(n, i)) < LOSS


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_b_frames_come_back_under_their_own_stamps(codec, tmp_path):
    bag = VideoBag(b_frames=2, gop=8, codec=codec)
    assert [coded.frame for coded in bag.streams["front"]] != list(range(bag.frames))
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    reader = MessageReader(index.path)
    for place in (5, 0, 11, 12, 3):
        n = round((topic.stamps_ns[place] - START_NS) / bag.period_ns)
        assert difference(decode_image(reader.read([topic[place]])[0]), bag.picture(n, 0)) < LOSS


def test_pictures_that_need_those_before_their_keyframe_are_decoded_from_the_one_before(tmp_path):
    """Open groups of H.265: shown before the keyframe that they follow in the stream."""
    bag = VideoBag(b_frames=2, gop=6, codec="h265", options={"open-gop": "1"}, frames=20)
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert len(topic) == bag.frames and index.problems == ()
    keys = [ref.key for ref in topic]
    assert keys != sorted(keys)  # leading pictures follow their keyframe, and begin at an earlier one
    for ref in topic:
        n = round((ref.stamp_ns - START_NS) / bag.period_ns)
        assert difference(decode_image(MessageReader(index.path).read([ref])[0]), bag.picture(n, 0)) < LOSS
    late = VideoBag(b_frames=2, gop=6, codec="h265", options={"open-gop": "1"}, frames=20, lost=(0,))
    index = open_index(late.write(tmp_path / "late"))
    assert any("from before its keyframe" in problem for problem in index.problems)


def test_video_of_a_bayer_mosaic_is_refused_by_name():
    _, contents = messages(count=1)
    contents[0].encoding = "h264;nv12;bayer_rggb8;bayer_rggb8"
    with pytest.raises(VideoError, match="Bayer mosaic"):
        as_packet(contents[0])


def test_the_beginning_without_a_keyframe_is_left_out_and_counted(tmp_path):
    bag = VideoBag(lost=(0, 1))
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert len(topic) == bag.frames - 5 and topic[0].stamp_ns == bag.stamp(5, 0)
    (problem,) = [each for each in index.problems if "front" in each]
    assert problem.startswith("/front/image_raw/ffmpeg: 3 video packets cannot be used") and "no keyframe" in problem
    found = MessageReader(index.path).read([topic[0]])[0]
    assert difference(decode_image(found), bag.picture(5, 0)) < LOSS


def test_after_a_lost_packet_of_h264_nothing_is_used_until_the_next_keyframe(tmp_path):
    bag = VideoBag(lost=(7,))
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert [round((s - START_NS) / bag.period_ns) for s in topic.stamps_ns] == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13]
    (problem,) = [each for each in index.problems if "front" in each]
    assert "2 video packets cannot be used" in problem and "missing" in problem
    for entry in BagSource(index).entries():
        n = (entry.frame.images[0].stamp_ns - START_NS) // bag.period_ns
        assert difference(entry.load().images[0], bag.picture(n, 0)) < LOSS


def test_after_a_lost_packet_of_h265_there_is_an_error_and_no_wrong_picture(tmp_path):
    bag = VideoBag(codec="h265", lost=(7,))
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    good = []
    for ref in topic:
        (found,) = MessageReader(index.path).read([ref])
        n = round((ref.stamp_ns - START_NS) / bag.period_ns)
        try:
            assert difference(decode_image(found), bag.picture(n, 0)) < LOSS
            good.append(n)
        except ImageError as error:
            assert "missing" in str(error)
    assert good == [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_index_comes_back_from_its_cache(codec, tmp_path, monkeypatch):
    path = VideoBag(codec=codec, lost=(0,)).write(tmp_path / "bag")
    index = open_index(path)
    monkeypatch.setattr(indexing, "_build", lambda *_: pytest.fail("indexed again"))
    again = open_index(path)
    assert again.problems == index.problems
    for name, topic in index.topics.items():
        assert list(again.topics[name]) == list(topic)
    assert (
        again.topics["/left/image_raw/ffmpeg"][0].key is not None and again.topics["/front/camera_info"][0].key is None
    )


def test_keyframes_without_parameter_sets_are_decoded_from_where_those_were(tmp_path):
    bag = VideoBag()
    for n, (topic, log_ns, content) in enumerate(bag.messages):
        if topic.endswith("ffmpeg") and content.flags and content.pts:
            begin = bytes(content.data).rindex(b"\0\0\1\x65")  # the IDR slice alone
            bag.messages[n] = (
                topic,
                log_ns,
                packet(
                    bag.kind,
                    bag.stamp(content.pts, 0),
                    "front_optical",
                    Coded(content.pts, bytes(content.data)[begin:], True),
                    SIZE,
                ),
            )
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert len({ref.key for ref in topic}) == 1
    assert difference(decode_image(MessageReader(index.path).read([topic[12]])[0]), bag.picture(12, 0)) < LOSS


def test_parameter_sets_in_a_message_of_their_own_belong_to_the_keyframe_after(tmp_path):
    bag, split = VideoBag(kind=FOXGLOVE_TYPE, cameras={"front": 0.0}), []
    for topic, log_ns, content in bag.messages:
        data = bytes(content.data) if topic.endswith("foxglove") else b""
        if b"\0\0\1\x65" in data:
            begin = data.rindex(b"\0\0\1\x65")
            parts = [Coded(0, data[:begin], False), Coded(0, data[begin:], True)]
            stamp = content.timestamp.sec * 10**9 + content.timestamp.nanosec
            split += [(topic, log_ns, packet(bag.kind, stamp, "front_optical", part, SIZE)) for part in parts]
        else:
            split.append((topic, log_ns, content))
    bag.messages = split
    index = open_index(bag.write(tmp_path / "bag"))
    topic = index.topics[bag.topic("front")]
    assert len(topic) == bag.frames and index.problems == ()
    assert (topic[5].place, topic[5].key) == (1, (topic[5].log_ns, 0))
    assert difference(decode_image(MessageReader(index.path).read([topic[6]])[0]), bag.picture(6, 0)) < LOSS


def test_other_codecs_are_refused_by_name(tmp_path):
    bag = VideoBag(kind=FOXGLOVE_TYPE)
    for _, _, content in bag.messages:
        if hasattr(content, "format"):
            content.format = "av1"
    with pytest.raises(
        BagError, match=r"not read: .*front/image_raw/foxglove \(video of codec 'av1' is not read; H.264"
    ):
        open_bags(BagConfig(path=str(bag.write(tmp_path / "bag"))))


def test_jpeg_images_are_preferred_to_video_of_the_same_camera(tmp_path):
    bag, plain = VideoBag(), RobotBag(frames=14)
    bag.messages += [each for each in plain.messages if each[0].endswith("compressed")]
    (source,) = open_bags(BagConfig(path=str(bag.write(tmp_path / "bag"))))
    assert [each.images for each in source.topics] == [f"/{name}/image_raw/compressed" for name in ("front", "left")]
    named = BagConfig(path=str(tmp_path / "bag"), cameras=("front",), image_topic="{camera}/image_raw/ffmpeg")
    assert difference(open_bags(named)[0].entries()[3].load().images[0], bag.picture(3, 0)) < LOSS


def test_without_pyav_the_index_is_made_and_decoding_says_what_to_install(tmp_path, monkeypatch):
    bag = VideoBag()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    index = open_index(bag.write(tmp_path / "bag"))
    assert index.problems == ()
    with pytest.raises(GaussianOccError, match="compressed video needs PyAV: pip install av"):
        MessageReader(index.path).read([index.topics[bag.topic("front")][3]])


# ---- packets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("size", [(64, 48), (134, 98), (1920, 1080), (61, 47)])
def test_headers_say_what_the_decoder_finds(codec, size):
    _, contents = messages(codec, count=7, size=size, gop=3)
    reader = HeaderReader("hevc" if codec == "h265" else codec)
    units = [reader.read(bytes(each.data)) for each in contents]
    assert [unit.size for unit in units] == [size] * 7
    assert [n for n, unit in enumerate(units) if unit.keyframe] == [0, 3, 6]
    assert all(unit.picture and not unit.gap for unit in units)
    assert decode_all(enumerate(contents))[6].size == size


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_damaged_packets_are_errors_until_the_next_keyframe(codec):
    frames, contents = messages(codec, gop=6)
    whole = contents[2].data
    cuts = [whole[:3], whole[:0], whole[9:]]
    if codec == "h264":  # H.265 has nothing by which a decoder would notice the missing end of a slice
        cuts.append(whole[: len(whole) // 4])
    for damaged in cuts:
        contents[2].data = damaged
        found = decode_all(enumerate(contents))
        for i, frame in enumerate(frames):
            if 2 <= i < 6:
                assert isinstance(found.get(i, ""), str), (len(damaged), i)
            else:
                assert difference(found[i].rgb()[0], frame) < LOSS


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_any_bytes_are_a_picture_or_a_named_error(codec):
    _, contents = messages(codec, count=8, gop=4)
    originals = [bytes(each.data) for each in contents]
    chance = random.Random(3)
    for _ in range(60):
        decoder = VideoDecoder(max_pixels=1 << 16)
        for content, data in zip(contents, originals, strict=True):
            broken = bytearray(data)
            for _ in range(chance.randrange(4)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            content.data = np.frombuffer(
                bytes(broken[: chance.choice((len(broken), chance.randrange(len(broken))))]), np.uint8
            )
            try:
                for _, picture in decoder.feed(content, 0):
                    assert picture.size[0] * picture.size[1] <= 1 << 16
            except VideoError as error:
                assert str(error) and "\n" not in str(error)


def test_flipped_bits_of_h264_are_noticed():
    """Of H.265 they are where its encoder adds a hash of each picture."""
    for codec, options in (("h264", {}), ("h265", {"hash": "1"})):
        frames, contents = messages(codec, count=4, gop=4, size=(320, 240), **options)
        chance, wrong, noticed = random.Random(1), 0, 0
        original = bytes(contents[2].data)
        for _ in range(40):
            broken = bytearray(original)
            for _ in range(3):
                broken[chance.randrange(8, len(broken))] ^= 1 << chance.randrange(8)
            contents[2].data = np.frombuffer(bytes(broken), np.uint8)
            found = decode_all(enumerate(contents))
            noticed += isinstance(found.get(2, ""), str)
            wrong += not isinstance(found.get(2, ""), str) and difference(found[2].rgb()[0], frames[2]) > LOSS
        assert wrong == 0 and noticed > 30, (codec, noticed, wrong)


def test_sizes_are_refused_before_memory_is_taken_for_them():
    _, contents = messages(count=2)
    contents[0].width = 1 << 20
    with pytest.raises(VideoError, match="says that it has 1048576x48 pixels"):
        as_packet(contents[0])
    _, large = messages(kind=FOXGLOVE_TYPE, count=1, size=(320, 240))  # it says so in its stream alone
    stream = VideoStream(max_pixels=320 * 240 - 1)
    with pytest.raises(VideoError, match="it has 320x240 pixels"):
        stream.follow(as_packet(large[0]))
    with pytest.raises(av.FFmpegError):  # nor does FFmpeg, should the two ever read a header differently
        decoder = VideoDecoder(max_pixels=320 * 240 - 1)
        decoder._open("h264")
        decoder._context.decode(av.Packet(bytes(large[0].data)))
        decoder._context.decode(None)


def test_a_packet_that_is_not_annex_b_is_named():
    _, contents = messages(count=1)
    data = bytes(contents[0].data)
    contents[0].data = np.frombuffer(len(data).to_bytes(4, "big") + b"\x67" + data[8:], np.uint8)
    with pytest.raises(VideoError, match="not h264 in Annex B"):
        VideoDecoder().feed(contents[0])


def test_a_picture_can_be_shrunk_on_its_way_out():
    frames, contents = messages(count=1, size=(320, 240))
    ((_, picture),) = VideoDecoder().feed(contents[0])
    pixels, reduce = decode_reduced(picture, 4)
    small = frames[0].reshape(60, 4, 80, 4, 3).mean((1, 3))
    assert reduce == 4 and pixels.shape == (60, 80, 3) and difference(pixels, small) < LOSS
    frames, contents = messages(count=1, size=(134, 98))
    ((_, picture),) = VideoDecoder().feed(contents[0])
    pixels, reduce = decode_reduced(picture, 4)
    assert reduce == 1 and pixels.shape == (98, 134, 3)


def test_colours_are_those_of_the_stream_s_matrix_and_range():
    """Red by BT.601 and by BT.709 differs by 20 grey levels where one is taken for the other."""
    image = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    for space, wide in ((None, None), (1, 1), (5, 2)):
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
        context.time_base, context.options = 1, {"tune": "zerolatency", "crf": "1"}
        if space:
            context.colorspace, context.color_range = space, wide
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=wide)
        (coded,) = [*context.encode(frame), *context.encode(None)]
        content = packet(FOXGLOVE_TYPE, START_NS, "c", Coded(0, bytes(coded), True), SIZE)
        ((_, picture),) = VideoDecoder().feed(content)
        assert difference(picture.rgb()[0], image) < 3


def test_a_packet_by_itself_is_no_image():
    _, contents = messages(count=1)
    with pytest.raises(ImageError, match="needs those from its keyframe on"):
        decode_image(contents[0])


def test_splits_of_a_recording_go_on(tmp_path):
    """The second split alone begins at a picture whose keyframe is in the first."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from support.robot_bags import STORE

    bag = VideoBag(cameras={"front": 0.0})
    ordered = sorted(bag.messages, key=lambda item: item[1])
    middle = bag.stamp(7, 0) + bag.delay_ns
    folder = tmp_path / "splits"
    folder.mkdir()
    for number, part in enumerate(([m for m in ordered if m[1] < middle], [m for m in ordered if m[1] >= middle])):
        with Writer(tmp_path / f"part{number}", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            known = {}
            for topic, log_ns, content in part:
                kind = content.__msgtype__
                known[topic] = known.get(topic) or writer.add_connection(topic, kind, typestore=STORE)
                writer.write(known[topic], log_ns, STORE.serialize_cdr(content, kind))
        shutil.move(next((tmp_path / f"part{number}").glob("*.mcap")), folder / f"drive_{number}.mcap")
    topic = open_index(folder).topics[bag.topic("front")]
    assert len(topic) == bag.frames
    assert difference(decode_image(MessageReader(folder).read([topic[8]])[0]), bag.picture(8, 0)) < LOSS
    alone = open_index(folder / "drive_1.mcap")
    assert len(alone.topics[bag.topic("front")]) == bag.frames - 10


def sliced_h265(count, slices, size=(256, 192)):
    """Frames, and their packets of so many slices; a keyframe every 12."""
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, "yuv420p", Fraction(1, 30)
    settings = f"slices={slices}:keyint=12:min-keyint=12:scenecut=0:annexb=1:repeat-headers=1:log-level=none"
    encoder.options = {
        "preset": "ultrafast", "tune": "zerolatency", "x265-params": f"{settings}:ctu=16:min-cu-size=8"
    }  # fmt: skip
    frames = [scene(n, size) for n in range(count)]
    packets = []
    for n, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        frame.pts = n
        packets += [bytes(each) for each in encoder.encode(frame)]
    return frames, packets + [bytes(each) for each in encoder.encode(None)]


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_packet_of_h265_without_one_of_its_slices_ends_the_pictures_up_to_the_next_keyframe(lost):
    """The decoder itself would show what was there before, without a word, and go on from that."""
    frames, packets = sliced_h265(30, 4)
    starts = [match.start() for match in re.finditer(b"\0\0\1", packets[17])]
    assert len(starts) == 4
    ends = [*starts[1:], len(packets[17])]
    packets[17] = b"".join(packets[17][a:b] for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if i != lost)
    contents = [
        packet(FOXGLOVE_TYPE, n, "c", Coded(n, data, n % 12 == 0), (256, 192), "h265") for n, data in enumerate(packets)
    ]
    found = decode_all(enumerate(contents))
    assert len(found) == 30
    whole = [n for n, each in found.items() if not isinstance(each, str)]
    assert whole == [*range(17), *range(24, 30)]
    assert all(difference(found[n].rgb()[0], frames[n]) < LOSS for n in whole)
    assert found[17] == "a part of its packet is missing: it has 3 slices, those before it 4"
    assert found[18] == "a part of a packet before it is missing, and no keyframe has come since"


def test_pictures_of_h265_may_have_other_numbers_of_slices():
    """Of an encoder that cuts by size nothing can be missed."""
    reader = HeaderReader("hevc")
    _, packets = sliced_h265(12, 4)
    starts = [match.start() for match in re.finditer(b"\0\0\1", packets[5])]
    for n in range(1, 40):
        unit = reader.read(packets[5][: starts[n % 3 + 1]])
        assert (unit.slices, unit.expected) == (n % 3 + 1, 0)


def test_a_packet_of_h264_without_one_of_its_slices_ends_the_pictures_up_to_the_next_keyframe():
    """Its own picture does not come out; those after it would be built on the hole."""
    av = pytest.importorskip("av")
    from fractions import Fraction
    from types import SimpleNamespace

    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.thread_count = 320, 192, "yuv420p", 1
    encoder.time_base, encoder.framerate = Fraction(1, 10), 10
    slices = "slices=4:sliced-threads=0:keyint=12:min-keyint=12:scenecut=0:annexb=1:repeat-headers=1"
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast", "x264-params": slices}
    base, packets = np.random.default_rng(0).integers(0, 255, (192, 320, 3), np.uint8), []
    for k in range(16):
        frame = av.VideoFrame.from_ndarray(np.roll(base, 4 * k, 1), "rgb24")
        frame.pts = k
        packets += [bytes(each) for each in encoder.encode(frame)]
    starts = [m.start() for m in re.finditer(b"\x00\x00\x01", packets[8])]
    packets[8] = packets[8][: starts[-1]]  # its last slice
    decoder, came, refused = VideoDecoder(), [], []
    for k, each in enumerate(packets):
        data = np.frombuffer(each, np.uint8)
        message = SimpleNamespace(
            width=320, height=192, encoding="h264", pts=0, flags=0, is_bigendian=False, data=data,
            header=SimpleNamespace(frame_id="f"),
        )  # fmt: skip
        try:
            came += [token for token, _ in decoder.feed(message, k)]
        except VideoError:
            refused.append(k)
    assert came == [*range(8), *range(12, 16)] and refused == [8, 9, 10, 11]
