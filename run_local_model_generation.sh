#!/usr/bin/env bash
# The earlier launcher's four arguments, then any flag: [questions] [model url] [model name] [concurrency] [--flag …]
# Files go to pubmed_training_data here, else to ../../pubmed_training_data, where the earlier scripts had it. Without
# the first argument, the newest questions*.jsonl in that folder is taken.
set -euo pipefail
output=pubmed_training_data
if [ ! -d "$output" ] && [ -d "../../$output" ]; then output=../../$output; fi
newest() { ls -t "$output"/questions*.jsonl 2>/dev/null | head -n 1 || true; }
given=()
while [ $# -gt 0 ] && [ "${#given[@]}" -lt 4 ] && [[ $1 != -* ]]; do given+=("$1"); shift; done
questions=${given[0]:-$(newest)}
if [ -z "$questions" ]; then
  echo "trajgraph: no questions*.jsonl in $output: give a questions file as the first argument" >&2
  exit 2
fi
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
trajgraph=$here/.venv/bin/trajgraph
[ -x "$trajgraph" ] || trajgraph=trajgraph
flags=(--questions-file "$questions")
default() { case " ${*:3} " in *" $1 "*|*" $1="*) ;; *) flags+=("$1" "$2") ;; esac; }  # unless the flags name it
default --local-model-url "${given[1]:-http://localhost:8000/v1}" "$@"
default --model-name "${given[2]:-Qwen3-8B}" "$@"
default --concurrency "${given[3]:-5}" "$@"
default --output "$output" "$@"
exec "$trajgraph" generate "${flags[@]}" "$@"
