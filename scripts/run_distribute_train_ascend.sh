#!/usr/bin/env bash
# Train a model on several Ascend devices of one server or of many.
# Results: scripts/train_parallel_ascend<i>/ (log, env.log, pid, exit_code, outputs/), i from 0.
#   bash scripts/run_distribute_train_ascend.sh [MODEL] RANK_TABLE_FILE CONFIG_PATH [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch distribute ascend train '' "$@"
