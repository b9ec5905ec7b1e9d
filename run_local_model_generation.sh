#!/usr/bin/env bash
# The earlier launcher's four arguments: [questions] [model url] [model name] [concurrency]
# Without the first, the newest questions*.jsonl in the output folder is taken.
set -euo pipefail
output=pubmed_training_data
newest() { ls -t "$output"/questions*.jsonl 2>/dev/null | head -n 1 || true; }
questions=${1:-$(newest)}
if [ -z "$questions" ]; then
  echo "trajgraph: no questions*.jsonl in $output: give a questions file as the first argument" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
trajgraph=$here/.venv/bin/trajgraph
[ -x "$trajgraph" ] || trajgraph=trajgraph
exec "$trajgraph" generate --questions-file "$questions" --local-model-url "${2:-http://localhost:8000/v1}" \
  --model-name "${3:-Qwen3-8B}" --concurrency "${4:-5}" --output "$output"
