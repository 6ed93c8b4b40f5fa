#!/usr/bin/env bash
# Train a model on several GPUs of one server or of many.
# Results: scripts/train_parallel_gpu<i>/ (log, env.log, pid, exit_code, outputs/), i from 0.
#   bash scripts/run_distribute_train_gpu.sh [MODEL] [RANK_TABLE_FILE] CONFIG_PATH [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch distribute gpu train '' "$@"
