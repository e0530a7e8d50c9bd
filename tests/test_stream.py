"""Real streams over the loopback, sent and watched by processes of their own."""

import json
import os
import signal
import socket
import threading

import pytest
import torch
from live_sources import (
    Process,
    free_port,
    hazard_model,
    send_udp,
    serve,
    serve_rtsp,
    watching,
    write_stream,
)

from railsformer.inference.live_source import StreamCounts, _Place, _plainly, _StreamClock
from railsformer.inference.stream import LiveSettings, is_live
from railsformer.inference.windows import Window

slow = pytest.mark.slow
AGAIN = [("idle", 1.6), ("hazard", 1.2)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return hazard_model(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture
def started():
    """Processes that a test starts; none is left."""
    processes = []
    yield processes
    for process in processes:
        process.kill()


def is_kind(kind, **values):
    return lambda message: message["kind"] == kind and all(message[name] == value for name, value in values.items())


def ran_out(process):
    """End it and return the last state."""
    process.signal(signal.SIGTERM)
    assert process.end() == 143
    assert process.messages[-1]["kind"] == "state"
    return process.messages[-1]


@slow
def test_a_camera_over_udp_raises_an_alarm_and_ends_it(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out")
    started += [watch, send_udp(port, AGAIN)]
    start = watch.wait_for(is_kind("event_start"))
    end = watch.wait_for(is_kind("event_end"))
    watch.wait_for(lambda message: message["kind"] == "heartbeat" and message["fps"] > 10)
    assert ran_out(watch)["reason"] == "SIGTERM"
    assert (start["label"], start["camera"], start["blind"]) == ("hazard", "yard 1", None)
    assert end["event"] == start["id"]
    assert 0.5 <= end["end_seconds"] - end["start_seconds"] <= 2.0
    assert start["start_time"] == end["start_time"] < end["end_time"]
    assert [message["state"] for message in watch.of("state")] == ["starting", "watching", "stopped"]
    beat = watch.of("heartbeat")[-1]
    assert (beat["connections"], beat["blind"]) == (1, None)
    events = json.loads((tmp_path / "out" / "events.json").read_text())
    assert [event["label"] for event in events["events"]] == ["hazard"] * len(watch.of("event_end"))
    assert events["camera"] == "yard 1"
    assert 0 < events["watched_seconds"] < 60
    lines = [json.loads(line) for line in (tmp_path / "out" / "alarms.jsonl").open()]
    assert lines == [row for row in watch.messages if row["kind"] not in ("heartbeat", "source")]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"alarms.jsonl", "events.json", "events.csv"}


@slow
@pytest.mark.parametrize("http", [False, True])
def test_a_stream_that_breaks_off_is_opened_again_and_what_was_open_is_closed(predictor, tmp_path, started, http):
    sender, port = serve([[("idle", 1.5), ("hazard", 1.5)], AGAIN * 20], http=http)
    address = f"http://user:secret@127.0.0.1:{port}/live" if http else f"tcp://127.0.0.1:{port}"
    watch = watching(predictor, address, tmp_path / "out")
    started += [watch, sender]
    watch.wait_for(is_kind("state", state="reconnecting"))
    watch.wait_for(lambda row: row["kind"] == "event_end" and len(watch.of("event_end")) > 1)
    first, second = watch.of("event_end")[:2]
    ran_out(watch)
    assert first["end_seconds"] < second["start_seconds"]
    states = [message["state"] for message in watch.of("state")]
    assert states[:4] == ["starting", "watching", "reconnecting", "watching"]
    beat = watch.of("heartbeat")[-1]
    assert beat["connections"] == 2
    assert not [row for row in watch.messages if "secret" in json.dumps(row)]
    assert "secret" not in (tmp_path / "out" / "events.json").read_text()


@slow
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_camera_over_rtsp_raises_an_alarm_and_is_found_again_after_it_died(predictor, tmp_path, started, transport):
    port = free_port()
    how = {"port": port, "transport": transport, "user": "me:secret"}
    watch = watching(predictor, f"rtsp://me:secret@127.0.0.1:{port}/live", tmp_path / "out")
    started += [watch, camera := serve_rtsp(AGAIN, **how)]
    assert watch.wait_for(is_kind("event_start"))["label"] == "hazard"
    watch.wait_for(is_kind("event_end"))
    camera.kill()
    state = watch.wait_for(is_kind("state", state="reconnecting"))
    assert state["reason"]
    started += [serve_rtsp(AGAIN, **how)]
    watch.wait_for(lambda row: row["kind"] == "heartbeat" and row["connections"] == 2 and row["fps"] > 10)
    before = len(watch.of("event_start"))
    watch.wait_for(lambda row: row["kind"] == "event_end" and len(watch.of("event_start")) > before)
    ran_out(watch)
    assert [row["state"] for row in watch.of("state")][:4] == ["starting", "watching", "reconnecting", "watching"]
    assert not [row for row in watch.messages if "secret" in json.dumps(row)]
    assert "secret" not in (tmp_path / "out" / "events.json").read_text()
    assert watch.of("heartbeat")[-1]["damaged"] <= 1  # what was cut off when it died


@slow
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("rtsp://me:secret@127.0.0.1:{port}/absent", "404 Not Found"),
        ("rtsp://me:wrong@127.0.0.1:{port}/live", "401 Unauthorized"),
        ("rtsp://127.0.0.1:{port}/live", "401 Unauthorized"),
        ("rtsp://me:secret@127.0.0.1:{other}/live", "Connection refused"),
    ],
)
def test_an_rtsp_camera_that_refuses_is_named_in_one_line_without_its_password(
    predictor, tmp_path, started, address, reason
):
    port = free_port()
    started += [serve_rtsp(AGAIN, port=port, user="me:secret")]
    address = address.format(port=port, other=free_port())
    watch = watching(predictor, address, tmp_path / "out", start_timeout_seconds=4.0)
    started += [watch]
    watch.wait_for(is_kind("error"))
    assert watch.end() == 1
    text = watch.of("error")[0]["text"]
    assert "no picture within 4 s" in text
    assert reason in text
    assert "\n" not in text
    assert not [row for row in watch.messages if "secret" in json.dumps(row) or "wrong" in json.dumps(row)]


@slow
def test_an_rtsp_camera_whose_pictures_stop_is_opened_again(predictor, tmp_path, started):
    port = free_port()
    watch = watching(
        predictor, f"rtsp://127.0.0.1:{port}/live", tmp_path / "out", reader={"read_timeout_seconds": 1.0}
    )
    started += [watch, serve_rtsp([("idle", 1.5), ("stall", 8.0)], port=port)]
    state = watch.wait_for(is_kind("state", state="reconnecting"))
    assert state["reason"] == "nothing came in time"
    ran_out(watch)


@slow
def test_a_stream_that_stays_away_is_blindness(predictor, tmp_path, started):
    sender, port = serve([[("idle", 2.0)]])  # then nobody is there
    watch = watching(predictor, f"tcp://127.0.0.1:{port}", tmp_path / "out", no_pictures_seconds=1.5)
    started += [watch, sender]
    assert watch.wait_for(is_kind("blind_start"))["reason"] == "no_pictures"
    ran_out(watch)
    assert watch.of("blind_end")[0]["blind"] == watch.of("blind_start")[0]["id"]


@slow
def test_a_stream_that_falls_silent_times_out_and_is_opened_again(predictor, tmp_path, started):
    sender, port = serve([[("idle", 1.5), ("stall", 60.0)], AGAIN * 20])
    watch = watching(predictor, f"tcp://127.0.0.1:{port}", tmp_path / "out", reader={"read_timeout_seconds": 1.0})
    started += [watch, sender]
    state = watch.wait_for(is_kind("state", state="reconnecting"))
    assert state["reason"] == "nothing came in time"
    ran_out(watch)


@slow
@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_a_stream_that_never_starts_is_an_error_of_one_line(predictor, tmp_path, started, scheme):
    port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    watch = watching(
        predictor,
        f"{scheme}://127.0.0.1:{port}",
        tmp_path / "out",
        start_timeout_seconds=2.5,
        reader={"read_timeout_seconds": 1.0, "open_timeout_seconds": 1.0},
    )
    started += [watch]
    watch.wait_for(is_kind("error"))
    assert watch.end() == 1
    error = watch.of("error")[0]
    assert error["type"] == "ValueError"
    assert f"127.0.0.1:{port}: no picture within 2.5 s" in error["text"]
    assert "\n" not in error["text"]
    assert ("refused" if scheme == "tcp" else "nothing came in time") in error["text"]


@slow
def test_size_and_rate_may_change_half_way(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out")
    plan = [("idle", 3.0), ("large", 0), ("idle", 1.5), ("hazard", 1.2), ("idle", 1.0), ("slow", 0), ("idle", 60.0)]
    started += [watch, send_udp(port, plan)]
    change = watch.wait_for(is_kind("source", what="size_change"))
    assert change["detail"] == "the picture size changes from 160x120 to 320x240"
    assert watch.wait_for(is_kind("event_end"))["start_seconds"] > change["seconds"]
    watch.wait_for(is_kind("source", what="rate_change"))
    ran_out(watch)


@slow
def test_windows_with_a_gap_in_their_time_stamps_are_not_scored(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out")
    started += [watch, send_udp(port, [("idle", 1.5), ("gap", 1.0)])]
    watch.wait_for(is_kind("source", what="gap"))
    watch.wait_for(lambda message: message["kind"] == "heartbeat" and message["windows_with_gap"] > 2)
    ran_out(watch)
    assert not watch.of("event_start")
    assert watch.of("heartbeat")[-1]["windows_scored"] > 2


@slow
@pytest.mark.parametrize(("kind", "setting"), [("black", "black_seconds"), ("frozen", "frozen_seconds")])
def test_a_camera_that_goes_blind_says_so_and_nothing_is_scored(predictor, tmp_path, started, kind, setting):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(
        predictor, f"udp://127.0.0.1:{port}", tmp_path / "out", blindness={setting: 1.0, "clear_seconds": 0.5}
    )
    started += [watch, send_udp(port, [("idle", 2.0), (kind, 4.0)])]
    assert watch.wait_for(is_kind("blind_start"))["reason"] == kind
    watch.wait_for(is_kind("state", state="blind"))
    assert watch.wait_for(is_kind("blind_end"))["reason"] == kind
    watch.wait_for(lambda message: message["kind"] == "heartbeat" and message["windows_blind"] > 1)
    ran_out(watch)


@slow
def test_a_stream_that_is_black_from_the_start_is_blind(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out", blindness={"black_seconds": 1.0})
    started += [watch, send_udp(port, [("black", 60.0)])]
    assert watch.wait_for(is_kind("blind_start"))["reason"] == "black"
    ran_out(watch)
    beat = watch.of("heartbeat")[-1]
    assert (beat["windows_scored"], beat["events"], beat["blind"]) == (0, 0, "black")
    assert beat["windows_blind"] > 0


@slow
def test_a_pipe_ends_the_watch_with_its_open_event(predictor, tmp_path, started):
    sender, reader = write_stream([("idle", 1.5), ("hazard", 1.5)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.json").write_text("of an earlier watch")
    watch = watching(predictor, "-", tmp_path / "out", stdin=reader)
    started += [watch, sender]
    os.close(reader)
    assert watch.end() == 0
    assert len(watch.of("event_start")) == len(watch.of("event_end")) == 1
    assert watch.messages[-1]["reason"] == "the stream ended"
    assert len(json.loads((tmp_path / "out" / "events.json").read_text())["events"]) == 1
    (earlier,) = (tmp_path / "out").glob("events-*.json")
    assert earlier.read_text() == "of an earlier watch"


@slow
def test_a_pipe_without_video_is_an_error_of_one_line(predictor, tmp_path, started):
    reader, writer = os.pipe()
    os.write(writer, b"no video at all" * 100)
    os.close(writer)
    watch = watching(predictor, "-", tmp_path / "out", stdin=reader)
    started += [watch]
    os.close(reader)
    assert watch.end() == 1
    assert "standard input ended before one picture could be decoded" in watch.of("error")[0]["text"]


@slow
def test_ctrl_c_closes_an_open_event_and_keeps_pictures_where_asked(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out", keep_pictures=True)
    started += [watch, send_udp(port, [("idle", 1.5), ("hazard", 60.0)])]
    start = watch.wait_for(is_kind("event_start"))
    watch.signal(signal.SIGINT)
    assert watch.end() == 130
    assert watch.of("event_end")[0]["event"] == start["id"]
    assert watch.messages[-1]["reason"] == "SIGINT"
    assert len(list((tmp_path / "out" / "pictures" / start["id"]).iterdir())) == 2  # num_frames


@slow
def test_a_network_that_is_too_slow_drops_windows_and_keeps_up(tmp_path, started):
    wide = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
    slow_one = hazard_model(tmp_path / "run", image_size=128, patch_size=8, num_frames=4, frame_interval=3, **wide)
    port = free_port(socket.SOCK_DGRAM)
    watch = watching(slow_one, f"udp://127.0.0.1:{port}", tmp_path / "out", stride_seconds=0.04)
    started += [watch, send_udp(port, [("idle", 60.0)])]
    beat = watch.wait_for(lambda message: message["kind"] == "heartbeat" and message["windows_dropped"] > 40)
    ran_out(watch)
    assert beat["windows_scored"] > 0
    last = watch.of("heartbeat")[-1]
    assert last["memory_mib"] - beat["memory_mib"] < 100
    assert last["connections"] == 1  # the stream is read on meanwhile


@slow
def test_a_webhook_that_is_down_holds_up_nothing(predictor, tmp_path, started):
    port = free_port(socket.SOCK_DGRAM)
    way = {"webhook": f"http://127.0.0.1:{free_port()}/", "tries": 10_000, "close_seconds": 0.5}
    watch = watching(predictor, f"udp://127.0.0.1:{port}", tmp_path / "out", outbox=way)
    started += [watch, send_udp(port, AGAIN)]
    watch.wait_for(is_kind("event_end"))
    watch.wait_for(lambda row: row["kind"] == "heartbeat" and row["events"] > 1)
    ran_out(watch)
    assert watch.of("heartbeat")[-1]["messages"]["webhook"]["sent"] == 0


@slow
def test_a_playlist_from_the_network_opens_no_file_of_this_machine(predictor, tmp_path, started):
    from videos import write_video

    video = write_video(tmp_path / "secret.ts", num_frames=60)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfile://{video}\n#EXT-X-ENDLIST\n"
    server = socket.create_server(("127.0.0.1", 0))

    def answer():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\nContent-Length: {len(text)}"
                connection.sendall(f"{head}\r\n\r\n{text}".encode())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}/live.m3u8"
    watch = watching(predictor, address, tmp_path / "out", start_timeout_seconds=3)
    started += [watch]
    watch.wait_for(is_kind("error"))
    server.close()
    assert not any(row["pictures"] for row in watch.of("heartbeat"))


@pytest.mark.parametrize(
    ("source", "live"),
    [
        ("rtsp://camera/1", True),
        ("HTTPS://camera/1", True),
        ("udp://@239.0.0.1:1234", True),
        ("/dev/video0", True),
        ("-", True),
        ("yard.mp4", False),
        ("file:///yard.mp4", False),
        ("concat://x", False),
    ],
)
def test_streams_are_told_from_files(source, live):
    assert is_live(source) is live


@pytest.mark.parametrize(
    ("reason", "plain"),
    [
        (
            "reading broke off ([Errno 5] Input/output error: 'rtsp://me:secret@cam/1')",
            "reading broke off (Input/output error)",
        ),
        ("""reading broke off ([Errno 5] End: "rtsp://me:s'ecret@cam/1")""", "reading broke off (End)"),
        ("cannot open rtsp://me:secret@cam/1", "cannot open rtsp://***@cam/1"),
        ("reading broke off ([Errno 1414092869] Immediate exit requested: 'x')", "nothing came in time"),
    ],
)
def test_reasons_are_plain_and_hold_no_password(reason, plain):
    assert _plainly(reason, "rtsp://me:secret@cam/1") == plain


def window(index, *, gap=False):
    return Window(index, index * 1.0, index + 2.0, None if gap else torch.zeros(1), gap)


def test_the_newest_window_takes_the_place_of_the_one_before_it():
    place = _Place(counts := StreamCounts())
    for index in range(3):
        place.put(window(index), picture_seconds=index + 1.9, arrived=float(index), seen=True)
    live = place.take(0.0)
    assert (live.window.index, live.arrived, live.after_gap) == (2, 2.0, False)
    assert place.take(0.0) is None
    assert (counts.windows, counts.windows_dropped) == (3, 2)


def test_a_gap_is_told_with_the_next_window_even_if_windows_are_dropped():
    place = _Place(counts := StreamCounts())
    place.put(window(0, gap=True), picture_seconds=0.0, arrived=0.0, seen=True)
    place.put(window(1), picture_seconds=0.0, arrived=1.0, seen=True)
    place.put(window(2), picture_seconds=0.0, arrived=2.0, seen=True)
    assert place.take(0.0).after_gap
    place.put(window(3), picture_seconds=0.0, arrived=3.0, seen=True)
    assert not place.take(0.0).after_gap
    assert counts.windows_with_gap == 1


def test_the_clock_takes_the_least_delay_for_none_and_tells_lag():
    clock = _StreamClock()
    clock.see(0.0, 100.5)  # the first picture waited for half a second
    clock.see(1.0, 101.0)
    assert clock.lag_seconds == 0.0
    clock.see(2.0, 104.0)
    assert clock.lag_seconds == pytest.approx(2.0, abs=0.01)


def test_what_came_before_the_streams_times_leapt_ahead_keeps_its_wall_clock():
    clock = _StreamClock()
    clock.see(10.0, 110.0)
    before = clock.wall_time(9.5)
    clock.see(3610.0, 111.0)  # an hour ahead, a second later
    assert clock.wall_time(9.5) == pytest.approx(before, abs=0.5)
    assert clock.wall_time(3610.0) - before == pytest.approx(1.5, abs=0.5)


def test_a_camera_whose_clock_is_slow_does_not_seem_to_lag():
    clock = _StreamClock()
    for second in range(0, 86_400, 60):  # 50 millionths, a day long
        clock.see(float(second), 1000.0 + second * (1 + 5e-5))
        assert clock.lag_seconds < 0.1


@pytest.mark.parametrize("name", ["heartbeat_seconds", "no_pictures_seconds", "max_seconds"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive number of seconds, got -1"):
        LiveSettings(**{name: -1})


def test_a_process_that_fails_is_seen_by_its_test():
    process = Process(lambda: 1 / 0)
    assert process.end() == 1
    assert process.of("error")[0]["type"] == "ZeroDivisionError"
