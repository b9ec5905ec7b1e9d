#!/usr/bin/env bash
# Questions -> trajectories -> export -> a small model -> trajectories of its own -> a table: run.sh FOLDER
# See examples/close_the_loop.md. Called by `make loop`, which says where the two environments are.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
trajgraph=${TRAJGRAPH:-trajgraph} python=${LOOP_PYTHON:-python3}
questions=${LOOP_QUESTIONS:-2000} held_out=${LOOP_HELD_OUT:-40} base_seconds=${LOOP_BASE_SECONDS:-360} sft_seconds=${LOOP_SFT_SECONDS:-240}
mkdir -p "${1:?give a folder}"
cd "$1"
if [ -n "$(ls -A)" ] && [ ! -e .loop ]; then echo "$1: give an empty folder" >&2; exit 2; fi
touch .loop
rm -rf teacher base export sft trl by_base by_sft papers.sqlite*
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

step() { printf '\n== %s\n' "$*"; }
free_port() { "$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
generate() {  # QUESTIONS OUTPUT MODEL PORT [FLAG…]
  "$trajgraph" generate --questions-file "$1" --output "$2" --model-name "$3" --local-model-url "http://127.0.0.1:$4/v1" \
    --mcp-url "http://127.0.0.1:$tools/mcp" --system-prompt-file "$here/prompt.txt" --tools pubmed_search,browse_webpage "${@:5}"
}
by_the_student() {  # base|sft: serve it, have it answer what nobody has asked, and end it
  local port served
  port=$(free_port)
  "$python" "$here/to_gguf.py" "$1" "$1.gguf"
  "$python" "$here/serve.py" "$port" "$1.gguf" student 4 16384 >/dev/null 2>"$1_server.log" &
  served=$!
  generate held_out.jsonl "by_$1" student "$port" --max-tokens 256 --concurrency 16 --max-downtime 60 ||
    [ $? = 1 ]  # some failed: a model that knows nothing may say nothing
  kill "$served" || { echo "llama.cpp has ended: see $1_server.log" >&2; exit 1; }
}

step "questions, and papers that answer them"
"$python" "$here/questions.py" . "$questions" "$held_out"
"$trajgraph" corpus build papers.sqlite papers.jsonl
tools=$(free_port)
"$trajgraph" serve-tools --corpus papers.sqlite --port "$tools" >tools.log 2>&1 &

step "trajectories of the teacher: the demo model"
teacher=$(free_port)
"$trajgraph" serve-model --port "$teacher" >teacher.log 2>&1 &
generate questions.jsonl teacher demo "$teacher" --concurrency 16

step "a model that has read papers, and knows no protocol ($base_seconds s of training)"
"$python" "$here/train.py" . base "$base_seconds"

step "the training set, verified against TRL"
"$trajgraph" export teacher --format messages --output export --tokenizer base --verify trl --where gates=0

step "trained on it by TRL ($sft_seconds s)"
"$python" "$here/train.py" . sft "$sft_seconds"

step "before and after: both answer questions about drugs that are in no other question"
by_the_student base
by_the_student sft
"$python" "$here/table.py" by_base by_sft | tee table.md
