"""The command as a process: its file survives kills, its output holds no key, its end prints a count."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
from scripted_upstream import Upstream, completion, json_reply

from vllm_sim.cli import main
from vllm_sim.proxy.journal import Journal
from vllm_sim.proxy.server import parse_upstream
from vllm_sim.trace.files import format_record, iter_records
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.validate import find_faults

KEY = "sk-very-secret-key"


def start(upstream: str, out: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """The running command, and its URL."""
    command = [sys.executable, "-c", "import sys; from vllm_sim.cli import main; sys.exit(main())", "record"]
    arguments = ["--upstream", upstream, "--out", str(out), "--port", "0", *options]
    process = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "->" in line, line + process.communicate()[1]
    return process, line.split()[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_with_a_count_and_no_key_is_left(
    upstream: Upstream, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "o.jsonl"
    process, url = start(upstream.url, out)
    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, default_headers={"api-key": KEY, "cookie": KEY})
    client.completions.create(model="m", prompt="a")
    assert upstream.seen[0].headers["authorization"] == f"Bearer {KEY}"
    httpx.post(f"{url}/completions?key={KEY}", content=b"no json", headers={"authorization": KEY})
    httpx.get(f"{url}/completions?key={KEY}", headers={"authorization": KEY})
    process.send_signal(number)
    output, log = process.communicate(timeout=20)
    assert process.returncode == 0, log
    assert "1 recorded, 0 not replayable, 0 failed, 0 aborted, 1 not recorded" in output
    assert len(output.splitlines()) == 1
    assert KEY not in output + log + out.read_text()
    assert "Traceback" not in log


def test_key_is_not_logged_when_upstream_cannot_take_it(tmp_path: Path) -> None:
    process, url = start("http://127.0.0.1:9", tmp_path / "o.jsonl")
    httpx.post(f"{url}/completions?key={KEY}", json={"prompt": "a"}, headers={"authorization": f"Bearer {KEY}"})
    process.terminate()
    output, log = process.communicate(timeout=20)
    assert KEY not in output + log
    assert "1 failed" in output


def test_upstream_with_a_key_in_its_url_is_refused_without_quoting_it() -> None:
    for url in (f"http://user:{KEY}@host", f"http://host/?key={KEY}"):
        with pytest.raises(ValueError, match="allowed: http") as raised:
            parse_upstream(url)
        assert KEY not in str(raised.value)
    for url in ("host:8000", "ftp://host", "http://", ""):
        with pytest.raises(ValueError, match="allowed: http"):
            parse_upstream(url)
    assert str(parse_upstream("https://host/openai/v1/")) == "https://host/openai"


def test_port_that_is_taken_is_an_error(upstream: Upstream, tmp_path: Path) -> None:
    port = upstream.url.rpartition(":")[2]
    command = [sys.executable, "-c", "import sys; from vllm_sim.cli import main; sys.exit(main())", "record"]
    arguments = ["--upstream", upstream.url, "--out", str(tmp_path / "o"), "--host", "127.0.0.1", "--port", port]
    done = subprocess.run(command + arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_uvicorn_is_one_clear_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; from vllm_sim.cli import main\n"
        f"sys.exit(main(['record', '--upstream', 'http://h', '--out', {str(tmp_path / 'o')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'vllm-sim: error: the module uvicorn is not installed: pip install "vllm-sim[record]"'
    ]


def test_killed_recorder_leaves_every_record_that_a_client_has_seen(upstream: Upstream, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    text = "x" * 300_000
    upstream.script = lambda seen: json_reply(completion(text))
    process, url = start(upstream.url, out)
    for _ in range(5):
        httpx.post(f"{url}/completions", json={"prompt": "a"})
    process.kill()
    process.communicate()
    assert [r.response for _, r in iter_records(out)] == [text] * 5


def write_forever(out: Path, characters: int) -> None:
    journal = Journal(out)
    list(journal.read())
    for i in range(10**9):
        journal.append(Record(prompt=f"{i}", response="\U0001f600" * characters))


def test_kill_in_mid_write_leaves_a_readable_file_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "o.jsonl"
    unfinished = 0
    for attempt in range(60):
        process = multiprocessing.get_context("fork").Process(target=write_forever, args=(out, 5_000_000))
        process.start()
        size = out.stat().st_size if out.exists() else 0
        # More than one record of 20,000,029 bytes and its end: the first one is whole.
        while not out.exists() or out.stat().st_size < size + 21_000_000:
            time.sleep(0.001)
        time.sleep(0.0137 * (attempt % 7))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        caplog.clear()
        found = [r for _, r in iter_records(out)]
        assert found
        assert list(find_faults(out)) == [None] * len(found)
        assert all(len(r.response or "") == 5_000_000 for r in found)
        unfinished += "unfinished record" in caplog.text
        journal = Journal(out)
        assert list(journal.read()) == found
        journal.close()
        assert out.read_bytes()[-2:] == b"}\n"
        if unfinished == 2:
            break
        os.truncate(out, 0)
    if not unfinished:
        pytest.skip("no kill fell into a write on this busy machine")


def test_every_state_of_a_write_is_readable_and_mended(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    first, second = (format_record(Record(prompt=p, response="é")).encode() for p in ("a", "b"))
    written = b"#" + second[1:]
    for cut in range(1, len(written) + 1):
        out.write_bytes(first + written[:cut])
        assert [r.prompt for _, r in iter_records(out)] == ["a"]
        assert list(find_faults(out)) == [None]
        assert main(["trace", "validate", str(out)]) == 0
        journal = Journal(out)
        assert [r.prompt for r in journal.read()] == ["a"]
        journal.append(Record(prompt="b", response="é"))
        journal.close()
        assert out.read_bytes() == first + second


def test_unfinished_line_that_is_not_the_last_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    line = format_record(Record(prompt="a", response="b")).encode()
    out.write_bytes(b"#" + line[1:] + line)
    with pytest.raises(TraceError, match=r"line 1: .*only a recording"):
        list(Journal(out).read())
    assert out.read_bytes() == b"#" + line[1:] + line


def test_record_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from vllm_sim.proxy.journal import Journal; from vllm_sim.trace.record import Record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "journal = Journal(Path(sys.argv[1])); list(journal.read())\n"
        "journal.append(Record(prompt='a', response='b'))\n"
        "try: journal.append(Record(prompt='a', response='b' * 20_000))\n"
        "except OSError as error: print(error)\n"
        "journal.append(Record(prompt='c', response='d'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True, check=True)
    assert "bytes could be written" in done.stdout
    assert [r.prompt for _, r in iter_records(out)] == ["a", "c"]


def test_line_cut_anywhere_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "o.jsonl"
    first, second = ({"prompt": p, "response": "é", "timestamp": 5.5} for p in ("a", "b"))
    whole = [json.dumps(v, ensure_ascii=False).encode() + b"\n" for v in (first, second)]
    for cut in range(len(whole[1])):
        out.write_bytes(whole[0] + whole[1][:cut])
        journal = Journal(out)
        kept = [r.prompt for r in journal.read()]
        journal.append(Record(prompt="c", response=""))
        journal.close()
        assert [r.prompt for _, r in iter_records(out)] == [*kept, "c"]
        assert kept == (["a", "b"] if cut == len(whole[1]) - 1 else ["a"])
    assert "half a record" in caplog.text


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b'{"prompt": "a"}\n', b'{"a": \n{"prompt": "a"'])
def test_file_that_is_no_recording_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "o.jsonl"
    out.write_bytes(content)
    with pytest.raises(TraceError, match="only a recording can be appended to"):
        list(Journal(out).read())
    assert out.read_bytes() == content


def test_packed_file_and_second_recorder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not packed"):
        Journal(tmp_path / "o.jsonl.gz")
    first = Journal(tmp_path / "o.jsonl")
    with pytest.raises(OSError, match="another recorder"):
        Journal(tmp_path / "o.jsonl")
    first.close()
    assert (tmp_path / "o.jsonl").stat().st_mode & 0o077 == 0
