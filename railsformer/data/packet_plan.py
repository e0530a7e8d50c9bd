"""The pictures at given instants with as little decoding as a file allows.

The packets say when each picture is shown before any of them is decoded. So a file whose pictures are all key pictures
(a proxy, MJPEG) costs one decoded picture an instant, and in any other file the pictures that neither are shown nor
serve others as a reference are left out, as are the groups of pictures in which no instant lies. The pixels are those
of decoding everything.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np

__all__ = ["frames_at"]

# Containers that tell the presentation time of every packet.
_TIMED_CONTAINERS = ("mov", "matroska")
# Codecs with pictures that no other refers to, which the decoder can tell from the packet and leave out.
_SKIPPING_CODECS = ("h264", "hevc", "mpeg4", "mpeg2video")
# Pictures are coded out of order by at most 16 places (H.264, HEVC): after this many later ones none earlier comes.
_REORDER_PACKETS = 17
# What is held in memory at once; a clip of 10 s at 60 fps holds 600 packets.
_MOST_PACKETS = 4_096
_MOST_BYTES = 128 * 2**20


def frames_at(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: Sequence[float] | np.ndarray,
    *,
    tolerance_seconds: float,
    seek_after_seconds: float,
) -> list[av.VideoFrame] | None:
    """Decode the pictures on screen at given instants, and of the others only what those need.

    Args:
        container: A file of which nothing has been read.
        stream: Its video.
        times: Ascending instants in seconds since the first picture.
        tolerance_seconds: A picture that begins this little after an instant still counts as shown.
        seek_after_seconds: Nearer than this to the start, reading from the first packet is cheaper than a seek.

    Returns:
        A frame for each instant, the same one where an instant shows the same picture; None where packets and
        pictures do not match up or something is wrong: the file has to be read picture by picture then.
    """
    if not container.format.name.startswith(_TIMED_CONTAINERS):
        return None
    try:
        read = _read_packets(container, stream, times, seek_after_seconds)
        if read is None:
            return None
        packets, first_pts = read
        wanted = _shown(packets, first_pts, stream, np.asarray(times) + tolerance_seconds)
        return None if wanted is None else _decode(stream, packets, wanted)
    except av.error.FFmpegError:
        return None


def _read_packets(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    times: Sequence[float] | np.ndarray,
    seek_after: float,
) -> tuple[list[av.Packet], int] | None:
    """Packets from a key picture at or before the first instant to past the last one, and the first picture's time.

    None if one of them lacks what a plan needs, or they are too many.
    """
    if stream.time_base is None:
        return None
    demuxed = _pictures(container.demux(stream))
    packets: list[av.Packet] = []
    unit = float(stream.time_base)
    later = size = 0
    first = next(demuxed, None)
    if first is None or first.pts is None:
        return None
    first_pts = first.pts
    if times[0] > seek_after:
        # Pictures that stand before the first one in time would move the origin; they come right after it.
        head = [packet.pts for _, packet in zip(range(_REORDER_PACKETS), demuxed, strict=False)]
        if any(pts is None or pts <= first_pts for pts in head):
            return None
        container.seek(first_pts + int(float(times[0]) / unit), stream=stream, backward=True)
        demuxed = _pictures(container.demux(stream))
        first = next(demuxed, None)
        if first is None or first.pts is None or (first.pts - first_pts) * unit > times[0]:
            return None
    last_pts = first_pts + (float(times[-1]) + 1.0) / unit
    packet: av.Packet | None = first
    while packet is not None:
        if packet.pts is None or packet.is_corrupt or len(packets) == _MOST_PACKETS or size > _MOST_BYTES:
            return None
        packets.append(packet)
        size += packet.size
        later = later + 1 if packet.pts > last_pts else 0
        if later == _REORDER_PACKETS:
            break
        packet = next(demuxed, None)
    return packets, first_pts


def _pictures(demuxed: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Packets that hold something: the last one is empty and only flushes the decoder."""
    return (packet for packet in demuxed if packet.size)


def _shown(
    packets: Sequence[av.Packet], first_pts: int, stream: av.VideoStream, until: np.ndarray
) -> list[int] | None:
    """The packet of the last picture that begins by each of the ascending times `until`, as indices into `packets`.

    None where the order of the pictures cannot be trusted: the first packet is no key picture or not the first to be
    shown, or two pictures share a time.
    """
    # Packets to discard are decoded for others' sake and never shown (an MP4 whose edit list cuts its start).
    shown = np.array([index for index, packet in enumerate(packets) if not packet.is_discard])
    pts = np.array([packets[index].pts for index in shown], dtype=np.int64)
    if not len(pts) or len(shown) < len(packets) or not packets[0].is_keyframe or pts.min() != pts[0]:
        return None
    order = np.argsort(pts)
    if (np.diff(pts[order]) == 0).any():
        return None
    base = stream.time_base or Fraction(1)
    # The very sums of `frame.time - first.time`: an instant on the edge must fall on the same side of it.
    clock = pts[order].astype(np.float64) * base.numerator / base.denominator
    seconds = clock - float(first_pts) * base.numerator / base.denominator
    places = np.searchsorted(seconds, until, side="right") - 1
    return [int(shown[order[max(place, 0)]]) for place in places]


def _decode(stream: av.VideoStream, packets: Sequence[av.Packet], wanted: Sequence[int]) -> list[av.VideoFrame] | None:
    """Decode the wanted packets and what they refer to; None unless each gave a sound picture of its own."""
    codec = stream.codec_context
    all_intra = all(packet.is_keyframe for packet in packets)
    skips = codec.codec.name in _SKIPPING_CODECS and not all_intra
    targets = {packets[index].pts for index in wanted}
    found: dict[int | None, av.VideoFrame] = {}
    position = 0
    for index in sorted(set(wanted)):
        start = index if all_intra else _key_before(packets, index)
        if not all_intra and start > position > 0:  # nothing of the groups in between is needed
            _keep(codec.decode(None), targets, found)
            codec.flush_buffers()
        for place in range(max(start, position), index + 1):
            if skips:
                codec.skip_frame = "DEFAULT" if packets[place].pts in targets else "NONREF"
            _keep(codec.decode(packets[place]), targets, found)
        position = max(position, index + 1)
    _keep(codec.decode(None), targets, found)
    frames = [found.get(packets[index].pts) for index in wanted]
    if any(frame is None or frame.is_corrupt for frame in frames):
        return None
    if all_intra and not all(frame.key_frame for frame in frames if frame is not None):
        return None  # the container calls pictures key pictures that are none
    return [frame for frame in frames if frame is not None]


def _key_before(packets: Sequence[av.Packet], index: int) -> int:
    """The last key picture from which the packet can be decoded: one that comes no later in coding nor on screen."""
    pts = packets[index].pts
    while index > 0 and not (packets[index].is_keyframe and packets[index].pts <= pts):  # type: ignore[operator]
        index -= 1
    return index


def _keep(frames: Iterable[av.VideoFrame], targets: set[int | None], found: dict[int | None, av.VideoFrame]) -> None:
    found.update((frame.pts, frame) for frame in frames if frame.pts in targets)
