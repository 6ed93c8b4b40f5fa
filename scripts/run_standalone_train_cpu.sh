#!/usr/bin/env bash
# Train a model with one process on the CPU. Results: scripts/train/ (log, env.log, pid, exit_code, outputs/).
#   bash scripts/run_standalone_train_cpu.sh [MODEL] CONFIG_PATH [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch standalone cpu train '' "$@"
