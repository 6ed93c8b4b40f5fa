#!/usr/bin/env bash
# Evaluate a ViT, or another model, on several Ascend devices of one server or of many.
# Results: scripts/eval<i>/ (log, env.log, pid, exit_code), i from 0.
#   bash scripts/eval_distribute.sh [MODEL] RANK_TABLE_FILE CONFIG_PATH [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch distribute ascend eval mae "$@"
