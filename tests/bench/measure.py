"""The clocks and scales of tests/bench/run: each subcommand measures one thing and prints numbers, one line for each subject.

  rounds N COMMAND...              milliseconds of each command (shell words in one argument), interleaved: MIN MEDIAN P90
  phases N IMAGE SOCKET...         milliseconds of each Docker API call of a container that runs `true`, interleaved:
                                   medians of CREATE START WAIT REMOVE SUM
  execs N (SOCKET CONTAINER)...    milliseconds of `true` by the Docker API's exec (create, start, end of output), interleaved: MIN MEDIAN
  ask N PATH SOCKET...             milliseconds of GET PATH of the Docker API, interleaved: MIN MEDIAN
  make N IMAGE SOCKET...           makes N containers on each engine, and starts none
  discard SOCKET...                removes every container that does not run
  listed SECONDS COUNT SOCKET      waits until the engine lists COUNT containers at least, running or not
  memory PID...                    KiB of all of them together: RSS PSS
  settle SECONDS PID               waits until the process is idle (RSS steady, next to no CPU), at most SECONDS; its RSS PSS
  pids NAME TEXT                   processes whose argv[0] ends in NAME and whose arguments contain TEXT
  echo-serve ADDRESS PORT          answers each byte of one TCP connection with a byte, then ends
  echo-ask ADDRESS PORT N          microseconds of N round trips: MIN MEDIAN P99
  ratio A B                        A/B with two digits, or a dash
"""
import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import time


def rank(values, share):
    """The value below which `share` of the values lie, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run_once(words):
    began = time.perf_counter()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)
    took = (time.perf_counter() - began) * 1000
    if done.returncode != 0:
        sys.exit(f"{shlex.join(words)}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return took


def rounds(n, *commands):
    commands = [shlex.split(c) for c in commands]
    for words in commands:
        run_once(words)  # warm-up
    times = [[] for _ in commands]
    for i in range(int(n)):
        order = range(len(commands)) if i % 2 == 0 else reversed(range(len(commands)))
        for c in order:
            times[c].append(run_once(commands[c]))
    for t in times:
        print(f"{min(t):.1f} {rank(t, 0.5):.1f} {rank(t, 0.9):.1f}")


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("docker", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def call(conn, method, path, body=None):
    data = None if body is None else json.dumps(body)
    conn.request(method, path, data, {"Content-Type": "application/json"} if data else {})
    answer = conn.getresponse()
    text = answer.read()
    if answer.status >= 400:
        sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace').strip()}")
    return json.loads(text) if text.strip() else None


def phase_times(conn, image):
    marks = [time.perf_counter()]
    made = call(conn, "POST", "/containers/create", {"Image": image, "Cmd": ["true"]})
    marks.append(time.perf_counter())
    call(conn, "POST", f"/containers/{made['Id']}/start")
    marks.append(time.perf_counter())
    ended = call(conn, "POST", f"/containers/{made['Id']}/wait")
    marks.append(time.perf_counter())
    if ended["StatusCode"] != 0:
        sys.exit(f"the container ended with {ended}")
    call(conn, "DELETE", f"/containers/{made['Id']}")
    marks.append(time.perf_counter())
    return [(b - a) * 1000 for a, b in zip(marks, marks[1:])] + [(marks[-1] - marks[0]) * 1000]


def phases(n, image, *sockets):
    conns = [UnixHttp(s) for s in sockets]
    seen = [[] for _ in conns]
    for i in range(int(n) + 1):
        for k, conn in enumerate(conns):
            times = phase_times(conn, image)
            if i > 0:
                seen[k].append(times)
    for rows in seen:
        print(" ".join(f"{rank(column, 0.5):.1f}" for column in zip(*rows)))


def exec_time(path, container):
    """Of one exec; its start takes the connection over, so each has a new one."""
    conn = UnixHttp(path)
    began = time.perf_counter()
    made = call(conn, "POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
    conn.request("POST", f"/exec/{made['Id']}/start", json.dumps({"Detach": False}), {"Content-Type": "application/json"})
    conn.getresponse().read()
    took = (time.perf_counter() - began) * 1000
    conn.close()
    code = call(UnixHttp(path), "GET", f"/exec/{made['Id']}/json")["ExitCode"]
    if code != 0:
        sys.exit(f"exec in {container} ended with {code}")
    return took


def execs(n, *where):
    pairs = list(zip(where[::2], where[1::2]))
    seen = [[] for _ in pairs]
    for i in range(int(n) + 1):
        for k, (path, container) in enumerate(pairs):
            took = exec_time(path, container)
            if i > 0:
                seen[k].append(took)
    for times in seen:
        print(f"{min(times):.1f} {rank(times, 0.5):.1f}")


def ask(n, path, *sockets):
    conns = [UnixHttp(s) for s in sockets]
    seen = [[] for _ in conns]
    for i in range(int(n) + 1):
        for k, conn in enumerate(conns):
            began = time.perf_counter()
            call(conn, "GET", path)
            if i > 0:
                seen[k].append((time.perf_counter() - began) * 1000)
    for times in seen:
        print(f"{min(times):.1f} {rank(times, 0.5):.1f}")


def make(n, image, *sockets):
    for path in sockets:
        conn = UnixHttp(path)
        for _ in range(int(n)):
            call(conn, "POST", "/containers/create", {"Image": image, "Cmd": ["true"]})


def discard(*sockets):
    for path in sockets:
        conn = UnixHttp(path)
        for container in call(conn, "GET", "/containers/json?all=1"):
            if container["State"] != "running":
                call(conn, "DELETE", f"/containers/{container['Id']}")


def listed(seconds, count, path):
    end = time.monotonic() + float(seconds)
    while True:
        try:
            if len(call(UnixHttp(path), "GET", "/containers/json?all=1")) >= int(count):
                return
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > end:
            sys.exit(f"{path} does not list {count} containers")
        time.sleep(0.002)


def rollup(pid):
    """(RSS, PSS) in KiB; a process that has gone weighs nothing."""
    fields = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for line in f:
                words = line.split()
                if words[0] in ("Rss:", "Pss:"):
                    fields[words[0]] = int(words[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return fields.get("Rss:", 0), fields.get("Pss:", 0)


def memory(*pids):
    both = [rollup(p) for p in pids]
    print(sum(b[0] for b in both), sum(b[1] for b in both))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        words = f.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def settle(seconds, pid):
    """Waits until a process is idle: 15 s at the least, then until its memory stays the same for 6 s and it takes no processor."""
    end = time.monotonic() + float(seconds)
    window = []
    time.sleep(15)
    while time.monotonic() < end:
        window = (window + [(rollup(pid)[0], cpu_seconds(pid))])[-6:]
        sizes = [w[0] for w in window]
        if len(window) == 6 and max(sizes) - min(sizes) <= 0.01 * max(sizes) and window[-1][1] - window[0][1] <= 0.25:
            break
        time.sleep(1)
    memory(pid)


def pids(name, text):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == name and text in " ".join(words[1:]):
            print(pid)


def echo_serve(address, port):
    with socket.create_server((address, int(port))) as server:
        server.settimeout(20)
        conn, _ = server.accept()
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := conn.recv(1):
                conn.sendall(data)


def echo_ask(address, port, n):
    end = time.monotonic() + 10
    while True:
        try:
            conn = socket.create_connection((address, int(port)), timeout=5)
            break
        except OSError:
            if time.monotonic() > end:
                raise
    times = []
    with conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(int(n)):
            began = time.perf_counter()
            conn.sendall(b"x")
            if not conn.recv(1):
                sys.exit("the other side hung up")
            times.append((time.perf_counter() - began) * 1e6)
    print(f"{min(times):.0f} {rank(times, 0.5):.0f} {rank(times, 0.99):.0f}")


def ratio(a, b):
    try:
        print(f"{float(a) / float(b):.2f}")
    except (ValueError, ZeroDivisionError):
        print("-")


COMMANDS = {
    "rounds": rounds, "phases": phases, "execs": execs, "ask": ask, "make": make, "discard": discard, "listed": listed, "memory": memory, "settle": settle, "pids": pids,
    "echo-serve": echo_serve, "echo-ask": echo_ask, "ratio": ratio,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
