import argparse, json, os, subprocess, sys, tempfile, time, shutil
from pathlib import Path

ap = argparse.ArgumentParser()
ap.add_argument("-n", type=int, default=300)
ap.add_argument("-c", type=int, default=64)
ap.add_argument("--rounds", type=int, default=1)
ap.add_argument("--no-floor", action="store_true")
a = ap.parse_args()
srv = subprocess.Popen([sys.executable, "-m", "benchmarks.load_servers"], stdout=subprocess.PIPE, text=True)
model, tools = srv.stdout.readline().split()
tmp = Path(tempfile.mkdtemp())


def cost(cmd):
    t = time.monotonic()
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    import threading

    err = []
    th = threading.Thread(target=lambda: err.append(p.stderr.read()))
    th.start()
    while True:
        pid, st, ru = os.wait4(p.pid, os.WNOHANG)
        if pid:
            break
        size = sum(f.stat().st_size for f in tmp.glob("out/*.sqlite*") if f.exists())
        peak = max(peak, size)
        time.sleep(0.05)
    th.join()
    if st:
        print(err[0].decode()[-2000:])
    return ru.ru_utime + ru.ru_stime, time.monotonic() - t, ru.ru_maxrss / 1024, peak


def q(n):
    f = tmp / f"q{n}.jsonl"
    f.write_text(
        "".join(
            json.dumps(
                {
                    "question": f"Does treatment {i} help patients with condition {i}?",
                    "topic": "t",
                    "question_type": "x",
                    "expected_search_terms": ["a"],
                }
            )
            + "\n"
            for i in range(n)
        )
    )
    return f


def gen(n):
    shutil.rmtree(tmp / "out", ignore_errors=True)
    return cost(
        [
            sys.executable,
            "-m",
            "cli",
            "generate",
            "--questions-file",
            str(q(n)),
            "--local-model-url",
            model,
            "--mcp-url",
            tools,
            "--output",
            str(tmp / "out"),
            "--concurrency",
            str(a.c),
            "--tools",
            "pubmed_search",
        ]
    )


def floor(n):
    return cost([sys.executable, "-m", "benchmarks.floor", str(q(n)), model, tools, str(a.c)])


for _ in range(a.rounds):
    for name, f in (("generate", gen), ("floor", floor)):
        if name == "floor" and a.no_floor:
            continue
        s = f(a.c)
        b = f(a.c + a.n)
        print(
            f"{name}: start {s[0]:.2f}s cpu; {(b[0] - s[0]) / a.n * 1000:.1f} ms/traj cpu; wall slope {(b[1] - s[1]) / a.n * 1000:.1f} ms; rss {b[2]:.0f} MB; peak ckpt {b[3] / 1e6:.1f} MB",
            flush=True,
        )
srv.kill()
