"""Streams over the loopback from processes of their own, a model that knows what they show, and a process to watch.

The scene is a still yard with the noise of a sensor; in a `hazard` a bright square lies in it.
"""

import base64
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from railsformer.data.transforms import PixelSettings, evaluation_pixels
from railsformer.inference.alarms import Backoff, open_outbox
from railsformer.inference.blindness import BlindnessSettings
from railsformer.inference.events import EventSettings
from railsformer.inference.live_source import ReaderSettings
from railsformer.inference.predictor import Predictor
from railsformer.inference.stream import LiveSettings, watch_stream
from railsformer.inference.windows import WindowPlan
from railsformer.model.configuration_railsformer import RailsformerConfig
from railsformer.model.modeling_railsformer import RailsformerForVideoClassification

CLOCK = Fraction(1, 90_000)
WIDTH, HEIGHT = 160, 120


def scene(kind: str, index: int, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """One picture, uint8 (height, width, 3)."""
    noise = np.random.default_rng(index).normal(0, 3, (HEIGHT, WIDTH, 1))
    yard = np.kron(np.random.default_rng(7).uniform(20, 120, (HEIGHT // 10, WIDTH // 10)), np.ones((10, 10)))[
        ..., None
    ]
    if kind == "black":
        yard = np.full_like(yard, 4.0)
    elif kind == "moved":
        yard = np.roll(yard, (25, 35), axis=(0, 1))
    elif kind == "frozen":
        noise = np.zeros_like(noise)
    if kind == "hazard":
        yard = yard.copy()
        yard[30:90, 40:120] = 235
    picture = np.clip(yard + noise, 0, 255).astype(np.uint8).repeat(3, axis=2)
    rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
    return np.ascontiguousarray(picture[rows][:, columns])


def hazard_model(folder: Path, **config: Any) -> Predictor:
    """A tiny network whose head is set by hand to tell a `hazard` from an idle scene, saved and loaded."""
    torch.manual_seed(0)
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = RailsformerForVideoClassification(
        RailsformerConfig(
            **{"image_size": 32, "patch_size": 16, "num_frames": 2, "frame_interval": 6, **tiny, **config},
            num_labels=2,
            id2label={0: "idle", 1: "hazard"},
            label2id={"idle": 0, "hazard": 1},
            negative_labels=["idle"],
        )
    ).eval()
    side = model.config.image_height_width[0]
    pixels = PixelSettings(side, side)
    with torch.inference_mode():
        seen = []
        for kind in ("idle", "hazard"):
            pictures = np.stack([scene(kind, index) for index in range(model.config.num_frames)])
            seen.append(model.timesformer(evaluation_pixels(pictures, pixels)[None]).last_hidden_state[0, 0])
        direction = (seen[1] - seen[0]) / (seen[1] - seen[0]).square().sum()
        middle = direction @ (seen[0] + seen[1]) / 2
        model.classifier.weight.copy_(torch.stack([-direction, direction]) * 6)  # logits -3 and 3 at either end
        model.classifier.bias.copy_(torch.stack([middle, -middle]) * 6)
    model.save_pretrained(folder)
    pixels.save_pretrained(folder)
    return Predictor.from_pretrained(folder, device="cpu")


class Process:
    """A fork that runs a function; its standard output is read line by line."""

    def __init__(self, work: Callable[[], int | None], *, stdin: int | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._reader, writer = os.pipe()
        self.number = os.fork()
        if not self.number:
            code = 1
            try:
                os.dup2(writer, 1)
                if stdin is not None:
                    os.dup2(stdin, 0)
                sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
                sys.stderr = os.fdopen(os.dup2(1, 2), "w", closefd=False)  # what is no JSON is not read
                os.closerange(3, 64)  # the other ends of pipes must not stay open here
                torch.set_num_threads(1)
                code = work() or 0
            except BaseException as error:
                traceback.print_exc()
                print(json.dumps({"kind": "error", "type": type(error).__name__, "text": str(error)}), flush=True)
            finally:
                os._exit(code)
        os.close(writer)
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._rest = b""
        self._code: int | None = None

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], *, seconds: float = 60.0) -> dict[str, Any]:
        """The first message, old or new, for which the condition holds."""
        end = time.monotonic() + seconds
        seen = 0
        while True:
            for message in self.messages[seen:]:
                if condition(message):
                    return message
            seen = len(self.messages)
            if not self._read(end - time.monotonic()) and len(self.messages) == seen:
                raise TimeoutError(f"it did not come in time; the last were {self.messages[-4:]}")

    def signal(self, number: int) -> None:
        os.kill(self.number, number)

    def end(self, *, seconds: float = 60.0) -> int:
        """Read to the end; the exit code, negative after a signal."""
        end = time.monotonic() + seconds
        while self._read(end - time.monotonic()):
            pass
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return self._code

    def kill(self) -> None:
        if self._code is None:
            self.signal(signal.SIGKILL)
            self.end()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["kind"] == kind]

    def _read(self, seconds: float) -> bool:
        """Read what is there, at most for so long; False at the end."""
        if not select.select([self._reader], [], [], max(0.0, seconds))[0]:
            return False
        data = os.read(self._reader, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.messages += [json.loads(line) for line in lines if line.startswith(b"{")]
        self.times += [time.time()] * (len(self.messages) - len(self.times))
        return bool(data)


def watching(
    predictor: Predictor,
    source: str,
    folder: Path,
    *,
    stdin: int | None = None,
    stride_seconds: float = 0.2,
    outbox: dict[str, Any] | None = None,
    blindness: dict[str, float] | None = None,
    reader: dict[str, Any] | None = None,
    **settings: Any,
) -> Process:
    """Watch a source in a process of its own, with short waits."""
    folder.mkdir(exist_ok=True)

    def work() -> int:
        waits = {"read_timeout_seconds": 2.0, "open_timeout_seconds": 5.0, "backoff": Backoff(0.2, 0.5)}
        return watch_stream(
            predictor,
            source,
            plan=WindowPlan(0.4, stride_seconds, max_gap_seconds=0.6),
            events=EventSettings({"hazard": 0.7}, min_dwell_seconds=0.3, merge_gap_seconds=0.5),
            outbox=open_outbox(stdout=sys.stdout, file=folder / "alarms.jsonl", **(outbox or {})),
            output_dir=folder,
            settings=LiveSettings(
                **{"camera": "yard 1", "heartbeat_seconds": 1.0, "start_timeout_seconds": 40.0, **settings},
                reader=ReaderSettings(**{**waits, **(reader or {})}),
                blindness=BlindnessSettings(**(blindness or {})),
            ),
        ).exit_code

    return Process(work, stdin=stdin)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def send_udp(port: int, plan: Sequence[tuple[str, float]], **how: Any) -> Process:
    """Send a plan of (kind, seconds) as MPEG-TS to a port, again and again."""

    def work() -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            sender = _Sender(container, **how)
            while True:
                sender.send(plan)

    return Process(work)


def serve(plans: Sequence[Sequence[tuple[str, float]]], *, http: bool = False, **how: Any) -> tuple[Process, int]:
    """Serve MPEG-TS over tcp or http: plan by plan, one a connection, and close it; then nobody is there."""
    listener = socket.create_server(("127.0.0.1", 0))
    descriptor = os.dup(listener.fileno())
    moved = 60  # out of the range that a fork closes, and known to it

    def work() -> None:
        server = socket.socket(fileno=moved)
        for plan in plans:
            connection, _ = server.accept()
            with connection:
                if http:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
                file = _SocketFile(connection)
                try:
                    with av.open(file, "w", format="mpegts", options={"flush_packets": "1"}) as container:
                        _Sender(container, **how).send(plan)
                except OSError:
                    continue

    os.dup2(descriptor, 70)
    os.close(descriptor)

    def start() -> None:
        os.dup2(70, moved)
        work()

    port = int(listener.getsockname()[1])
    process = Process(start)
    os.close(70)
    listener.close()
    return process, port


def serve_rtsp(
    plan: Sequence[tuple[str, float]],
    *,
    port: int,
    transport: str = "tcp",
    user: str = "",
    path: str = "/live",
    **how: Any,
) -> Process:
    """Serve H.264 over RTSP as a camera does, one watcher after the other, the plan again and again.

    Args:
        plan: Of (kind, seconds).
        port: On the loopback.
        transport: The only one that it knows: `tcp` (interleaved) or `udp`.
        user: `name:password` that it asks for.
        path: The only one that it has; others are not found.
        how: Of the sender.
    """

    def work() -> None:
        with socket.create_server(("127.0.0.1", port)) as server:
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    _RtspSession(connection, transport=transport, user=user, path=path).serve(plan, **how)

    return Process(work)


def write_stream(plan: Sequence[tuple[str, float]], **how: Any) -> tuple[Process, int]:
    """Write a plan in real time to a pipe; the process and the end to read from."""
    reader, writer = os.pipe()
    os.dup2(writer, 71)

    def work() -> None:
        with open(71, "wb", buffering=0) as file, av.open(file, "w", format="mpegts") as container:
            _Sender(container, **how).send(plan)

    process = Process(work)
    os.close(71)
    os.close(writer)
    return process, reader


class _SocketFile:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def write(self, data: bytes) -> int:
        self.connection.sendall(data)
        return len(data)


class _Sender:
    """Sends in real time. `gap` leaves time out, `stall` waits too; `large` and `slow` change size and rate."""

    def __init__(self, container: Any, *, fps: int = 25, gop: int = 10) -> None:
        self._fps, self._gop = fps, gop
        self._size, self._ticks, self._index = (WIDTH, HEIGHT), 0, 0
        self._begin(container)
        self._coder = _coder(self._size, fps, gop)
        self._began = time.monotonic()

    def _begin(self, container: Any) -> None:
        self._container = container
        self._stream = container.add_stream("libx264", rate=self._fps)
        self._stream.width, self._stream.height, self._stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._stream.time_base = CLOCK

    def _mux(self, packet: av.Packet) -> None:
        packet.stream = self._stream
        self._container.mux(packet)

    def send(self, plan: Sequence[tuple[str, float]]) -> None:
        for kind, seconds in plan:
            if kind in ("gap", "stall"):
                self._ticks += int(seconds * 90_000)
                time.sleep(seconds if kind == "stall" else 0)
            elif kind == "large":
                self._size = (320, 240)
                self._coder = _coder(self._size, self._fps, self._gop)
            elif kind == "slow":
                self._fps = self._fps // 2
            else:
                for _ in range(round(seconds * self._fps)):
                    self._send_picture(kind)

    def _send_picture(self, kind: str) -> None:
        time.sleep(max(0.0, self._began + self._ticks / 90_000 - time.monotonic()))
        shown = scene(kind, self._index, width=self._size[0], height=self._size[1])
        frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
        frame.pts, frame.time_base = self._ticks, CLOCK
        for packet in self._coder.encode(frame):
            self._mux(packet)
        self._ticks, self._index = self._ticks + 90_000 // self._fps, self._index + 1


class _RtspSession:
    """One connection of an RTSP server (RFC 2326), with RTP (RFC 3550) of H.264 (RFC 6184) in it or beside it."""

    def __init__(self, connection: socket.socket, *, transport: str, user: str, path: str) -> None:
        self._connection, self._transport, self._path = connection, transport, path
        self._login = "Basic " + base64.b64encode(user.encode()).decode() if user else ""
        self._data, self._playing = b"", False
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._client: tuple[str, int] | None = None

    def serve(self, plan: Sequence[tuple[str, float]], **how: Any) -> None:
        with self._udp:
            while not self._playing:
                if not self.answer(wait=True):
                    return
            sender = _RtpSender(self, **how)
            while True:
                sender.send(plan)

    def answer(self, *, wait: bool = False) -> bool:
        """Answer what was asked; False where nothing was."""
        if not wait and not select.select([self._connection], [], [], 0)[0] and b"\r\n\r\n" not in self._data:
            return False
        while b"\r\n\r\n" not in self._data:
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionResetError
            self._data += received
            while len(self._data) >= 4 and self._data[0:1] == b"$":  # what the watcher reports of packets
                size = 4 + int.from_bytes(self._data[2:4], "big")
                if len(self._data) < size:
                    break
                self._data = self._data[size:]
            if not wait and b"\r\n\r\n" not in self._data:
                return False
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, address, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._respond(method, address, fields)
        return True

    def _respond(self, method: str, address: str, fields: dict[str, str]) -> None:
        status, more, body = "200 OK", [], ""
        if method == "TEARDOWN":
            self._reply(status, fields)
            raise ConnectionResetError
        if self._login and method != "OPTIONS" and fields.get("authorization") != self._login:
            status, more = "401 Unauthorized", ['WWW-Authenticate: Basic realm="yard"']
        elif method == "OPTIONS":
            more = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"]
        elif not address.partition("://")[2].partition("/")[2].startswith(self._path[1:]):
            status = "404 Not Found"
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=yard\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
            )
            more = [f"Content-Base: {address}/", "Content-Type: application/sdp"]
        elif method == "SETUP":
            status, more = self._set_up(fields["transport"])
        self._reply(status, fields, more, body)
        self._playing |= method == "PLAY" and status == "200 OK"

    def _set_up(self, transport: str) -> tuple[str, list[str]]:
        if ("TCP" in transport) != (self._transport == "tcp"):
            return "461 Unsupported Transport", []
        if self._transport == "tcp":
            return "200 OK", ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1;timeout=4"]
        ports = transport.partition("client_port=")[2].partition(";")[0]
        self._client = "127.0.0.1", int(ports.partition("-")[0])
        here = self._udp.getsockname()[1]
        way = f"Transport: RTP/AVP;unicast;client_port={ports};server_port={here}-{here + 1}"
        return "200 OK", [way, "Session: 1;timeout=4"]

    def _reply(self, status: str, fields: dict[str, str], more: Sequence[str] = (), body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {fields.get('cseq', '0')}", *more, f"Content-Length: {len(body)}"]
        self._connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def send_packet(self, packet: bytes) -> None:
        if self._client is not None:
            self._udp.sendto(packet, self._client)
        else:
            self._connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)


class _RtpSender(_Sender):
    """Sends the same scenes as RTP packets."""

    def _begin(self, container: _RtspSession) -> None:
        self._session, self._number = container, 0

    def _mux(self, packet: av.Packet) -> None:
        while self._session.answer():
            pass
        units = [unit.rstrip(b"\0") for unit in bytes(packet).split(b"\0\0\1")]
        payloads = [payload for unit in units if unit for payload in _payloads(unit)]
        for place, payload in enumerate(payloads):
            self._number = (self._number + 1) % 2**16
            marked = 96 | (0x80 if place == len(payloads) - 1 else 0)
            self._session.send_packet(struct.pack(">BBHII", 0x80, marked, self._number, packet.pts, 7) + payload)


def _payloads(unit: bytes, size: int = 1200) -> list[bytes]:
    """A unit of H.264 as payloads of RTP: one, or fragments (FU-A)."""
    if len(unit) <= size:
        return [unit]
    parts = [unit[start : start + size] for start in range(1, len(unit), size)]
    flags = [(0x80 if i == 0 else 0) | (0x40 if i == len(parts) - 1 else 0) for i in range(len(parts))]
    return [
        bytes([unit[0] & 0xE0 | 28, flag | unit[0] & 0x1F]) + part for flag, part in zip(flags, parts, strict=True)
    ]


def _coder(size: tuple[int, int], fps: int, gop: int) -> Any:
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt, coder.time_base = *size, "yuv420p", CLOCK
    coder.framerate = Fraction(fps)
    coder.gop_size = gop
    coder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18"}
    return coder
