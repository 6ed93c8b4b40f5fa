#!/usr/bin/env bash
# Evaluate a model with one process on one Ascend device. Results: scripts/eval/ (log, env.log, pid, exit_code).
#   bash scripts/run_eval_ascend.sh [MODEL] CONFIG_PATH [--ckpt_path FILE] [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch standalone ascend eval '' "$@"
