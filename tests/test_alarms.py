import ast
import contextlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from railsformer.inference.alarms import Backoff, Command, Delivery, Webhook, open_outbox, without_secrets

QUICK = Backoff(first_seconds=0.02, max_seconds=0.05)


def alarm(number=1, kind="event_start"):
    return {"kind": kind, "id": f"yard-{number}", "label": "hazard"}


class Receiver:
    """A real HTTP server: what it got, and what it answers, answer by answer; the last one for good."""

    def __init__(self, *answers, port=0):
        self.got, self.keys, self.authorizations = [], [], []
        receiver, left = self, list(answers or (200,))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = left.pop(0) if len(left) > 1 else left[0]
                answer, location = answer if isinstance(answer, tuple) else (answer, None)
                if answer == 200:
                    receiver.got.append(json.loads(body))
                    receiver.keys.append(self.headers["Idempotency-Key"])
                    receiver.authorizations.append(self.headers["Authorization"])
                self.send_response(answer)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/alarms"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def refused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_messages_are_json_lines(tmp_path):
    stdout = io.StringIO()
    with open_outbox(stdout=stdout, file=tmp_path / "alarms.jsonl") as outbox:
        outbox.send(alarm(1))
        outbox.send(alarm(2, "heartbeat"))
    assert [json.loads(line) for line in stdout.getvalue().splitlines()] == [alarm(1), alarm(2, "heartbeat")]
    assert [json.loads(line) for line in (tmp_path / "alarms.jsonl").open()] == [alarm(1)]  # no heartbeats


def test_a_file_with_half_a_last_line_goes_on_on_a_new_one(tmp_path):
    path = tmp_path / "alarms.jsonl"
    path.write_text('{"kind": "event_st')
    with open_outbox(file=path) as outbox:
        outbox.send(alarm())
    assert json.loads(path.read_text().splitlines()[1]) == alarm()


def test_a_webhook_gets_alarms_and_no_heartbeats():
    with Receiver() as receiver:
        with open_outbox(webhook=receiver.url) as outbox:
            for number, kind in enumerate(["event_start", "heartbeat", "blind_start", "event_end"]):
                outbox.send(alarm(number, kind))
        assert [message["kind"] for message in receiver.got] == ["event_start", "blind_start", "event_end"]
        assert receiver.keys == ["yard-0", "yard-2", "yard-3"]
        with open_outbox(webhook=receiver.url, heartbeats_to_webhook=True) as outbox:
            outbox.send(alarm(4, "heartbeat"))
        assert receiver.got[-1] == alarm(4, "heartbeat")


def test_a_webhook_that_was_down_gets_what_waited():
    port = refused_port()
    with open_outbox(webhook=f"http://127.0.0.1:{port}/", tries=1000, backoff=QUICK) as outbox:
        outbox.send(alarm(1))
        outbox.send(alarm(2))
        time.sleep(0.1)
        assert outbox.counts() == {"webhook": {"sent": 0, "failed": 0, "dropped": 0}}
        with Receiver(port=port) as receiver:
            until(lambda: len(receiver.got) == 2)
            until(lambda: outbox.counts()["webhook"]["sent"] == 2)
    assert [message["id"] for message in receiver.got] == ["yard-1", "yard-2"]


def test_beginnings_of_events_and_blindness_are_tried_for_longer():
    url = f"http://127.0.0.1:{refused_port()}/"
    with open_outbox(webhook=url, tries=1, urgent_tries=1000, backoff=QUICK, close_seconds=0.5) as outbox:
        outbox.send(alarm(1, "event_end"))
        outbox.send(alarm(2, "blind_start"))
        until(lambda: outbox.counts()["webhook"]["failed"] == 1)
        time.sleep(0.3)
        assert outbox.counts()["webhook"]["failed"] == 1  # still tried
    waits = Backoff(jitter=0.5)
    shortest = sum(0.5 * min(waits.max_seconds, waits.first_seconds * 2.0**n) for n in range(29))
    assert shortest > 5 * 60  # what open_outbox gives them unless told otherwise: 30 tries


def test_a_webhook_that_stays_down_costs_its_alarms_and_nobody_waits(caplog):
    stdout = io.StringIO()
    began = time.monotonic()
    url = f"http://user:secret@127.0.0.1:{refused_port()}/hook?token=secret"
    outbox = open_outbox(stdout=stdout, webhook=url, tries=2, urgent_tries=2, backoff=QUICK)
    for number in range(5):
        outbox.send(alarm(number))
    assert time.monotonic() - began < 5  # 5 alarms of 2 tries are not waited for
    until(lambda: outbox.counts()["webhook"]["failed"] == 5)
    outbox.close()
    assert len(stdout.getvalue().splitlines()) == 5
    assert len(caplog.records) == 1  # said once, counted always
    assert "cannot be reached" in caplog.text
    assert "secret" not in caplog.text


def test_a_webhook_that_never_answers_fills_its_queue_and_no_more():
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:  # connections are taken, nothing is said
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        outbox = open_outbox(webhook=url, timeout_seconds=30, close_seconds=0.3)
        for number in range(1000):
            outbox.send(alarm(number))
        assert outbox.counts()["webhook"]["dropped"] >= 1000 - 256 - 1
        began = time.monotonic()
        outbox.close()
        assert time.monotonic() - began < 20  # it does not wait for the answer
        counts = outbox.counts()["webhook"]
        assert counts["sent"] == 0
        assert counts["dropped"] >= 999  # the one under way apart


def test_a_busy_receiver_is_asked_again_and_one_that_says_no_is_not():
    with Receiver(503, 429, 200) as receiver:
        with open_outbox(webhook=receiver.url, backoff=QUICK) as outbox:
            outbox.send(alarm())
        assert receiver.got == [alarm()]
    with Receiver(400, 200) as receiver:
        with open_outbox(webhook=receiver.url, backoff=QUICK) as outbox:
            outbox.send(alarm(1))
            outbox.send(alarm(2))
        assert receiver.got == [alarm(2)]
        assert outbox.counts()["webhook"] == {"sent": 1, "failed": 1, "dropped": 0}


def test_a_command_gets_each_alarm_on_its_standard_input(tmp_path):
    code = "import sys, pathlib; f = open(sys.argv[1], 'a'); f.write(sys.stdin.read())"
    with open_outbox(command=f'{sys.executable} -c "{code}" "{tmp_path}/a b"', close_seconds=60) as outbox:
        outbox.send(alarm(1))
        outbox.send(alarm(2, "heartbeat"))
        outbox.send(alarm(3))
    assert [json.loads(line)["id"] for line in (tmp_path / "a b").open()] == ["yard-1", "yard-3"]


def test_a_command_that_fails_or_hangs_is_told_and_killed(tmp_path):
    with pytest.raises(Delivery, match="ended with code 3"):
        Command("sh -c 'exit 3'").run(alarm())
    Command("true").run(alarm())  # one that does not read its input
    with pytest.raises(Delivery, match=r"took more than 0.3 s and was killed"):
        Command(f"sh -c 'sleep 60 & echo $! > {tmp_path}/pid; sleep 60'", timeout_seconds=0.3).run(alarm())

    def is_gone():
        try:
            number = int((tmp_path / "pid").read_text())
            state = Path(f"/proc/{number}/stat").read_text().split(")")[1].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    until(is_gone)  # what it had started, too


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_costs_lines_and_not_the_watch(caplog):
    stdout = io.StringIO()
    with open_outbox(stdout=stdout, file="/dev/full") as outbox:
        outbox.send(alarm(1))
        outbox.send(alarm(2))
    assert outbox.counts()["file"] == {"sent": 0, "failed": 2, "dropped": 0}
    assert len(stdout.getvalue().splitlines()) == 2
    assert "/dev/full: No space left on device; make room" in caplog.text


def test_a_reader_who_left_is_noticed_unless_somebody_else_listens():
    def after_one_alarm(**ways):
        reader, writer = os.pipe()
        os.close(reader)
        stdout = os.fdopen(writer, "w")
        with open_outbox(stdout=stdout, **ways) as outbox:
            outbox.send(alarm())
            until(lambda: outbox.counts()["stdout"]["failed"] == 1)
            unheard = outbox.unheard
        with contextlib.suppress(BrokenPipeError):
            stdout.close()
        return unheard

    assert after_one_alarm()
    with Receiver() as receiver:
        assert not after_one_alarm(webhook=receiver.url)


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (
            {"webhook": "ftp://host/x?key=1"},
            r"--webhook must be an http:// or https:// URL, got ftp://host/x\?\*\*\*$",
        ),
        ({"webhook": "http://"}, "--webhook must be"),
        ({"webhook": "http://host:port/"}, "--webhook must be"),
        ({"command": "no_such_program_here -x"}, "--alarm_command: there is no program 'no_such_program_here'"),
        ({"command": "sh -c 'x"}, "--alarm_command must be quoted as in a shell"),
        ({"command": ""}, "--alarm_command: there is no program"),
    ],
)
def test_what_cannot_work_is_refused_at_the_door(ways, words):
    with pytest.raises(ValueError, match=words):
        open_outbox(**ways)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:pa55@10.0.0.7:554/ch1", "rtsp://***@10.0.0.7:554/ch1"),
        ("http://[::1]:8080/x?token=abc", "http://[::1]:8080/x?***"),
        ("/dev/video0", "/dev/video0"),
        ("udp://239.0.0.1:1234", "udp://239.0.0.1:1234"),
        ("rtsp://h/user=a_password=pa55_channel=1", "rtsp://h/user=a_password=***_channel=1"),
        ("http://host:notaport/", "a URL that cannot be read"),
    ],
)
def test_urls_are_shown_without_their_secrets(url, shown):
    assert without_secrets(url) == shown


def test_waits_grow_to_a_limit_and_never_keep_step():
    backoff = Backoff(first_seconds=1, max_seconds=30, jitter=0.5)
    for failures, most in [(1, 1), (2, 2), (5, 16), (6, 30), (10_000, 30)]:
        waits = [backoff.seconds(failures) for _ in range(50)]
        assert most / 2 <= min(waits) < max(waits) <= most


def test_a_webhook_name_that_cannot_be_resolved_is_tried_again():
    with pytest.raises(Delivery, match="cannot be reached") as error:
        Webhook("http://no-such-host.invalid/", timeout_seconds=2).post(alarm())
    assert error.value.again


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_not_followed_without_the_message(code):
    with Receiver() as other, Receiver((code, other.url)) as receiver:
        with pytest.raises(Delivery, match=rf"answers {code}; give --webhook the address that it leads to") as error:
            Webhook(receiver.url).post(alarm())
        assert not error.value.again
        assert other.got == []


def test_a_camera_of_any_name_reaches_the_webhook():
    with Receiver() as receiver:
        Webhook(receiver.url).post({"kind": "event_start", "id": "站场 1\n-7", "camera": "站场 1"})
        assert receiver.got[0]["camera"] == "站场 1"
        assert receiver.keys == ["%E7%AB%99%E5%9C%BA 1%0A-7"]


def test_a_webhook_takes_user_and_password_and_shows_neither():
    with Receiver() as receiver:
        webhook = Webhook(receiver.url.replace("http://", "http://yard:p%40ss@"))
        webhook.post(alarm())
        assert receiver.authorizations == ["Basic eWFyZDpwQHNz"]
    with pytest.raises(Delivery) as error:
        Webhook(f"http://yard:p%40ss@127.0.0.1:{refused_port()}/services/T0/SECRET?key=1").post(alarm())
    assert not {"yard", "p%40ss", "SECRET", "key"} & set(str(error.value).replace("/", " ").replace(":", " ").split())


def test_a_process_whose_output_nobody_reads_ends_all_the_same():
    script = (
        "import sys\n"
        "from railsformer.inference.alarms import open_outbox\n"
        "with open_outbox(stdout=sys.stdout, close_seconds=0.5) as outbox:\n"
        "    for number in range(200):\n"
        "        outbox.send({'kind': 'state', 'id': number, 'text': 2000 * 'x'})\n"
        "print(outbox.counts(), file=sys.stderr)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.wait(timeout=60) == 0  # nobody has read a byte
        whole, _, torn = process.stdout.read().rpartition("\n")
        assert [json.loads(line)["id"] for line in whole.splitlines()] == list(range(len(whole.splitlines())))
        counts = ast.literal_eval(process.stderr.read().splitlines()[-1])["stdout"]
        assert counts["sent"] == len(whole.splitlines())
        assert counts["sent"] + counts["failed"] + counts["dropped"] == 200
        assert counts["failed"] <= 1  # the one in hand, of which a part may be out
        assert len(torn) < 2100
    finally:
        process.kill()
        process.communicate()
