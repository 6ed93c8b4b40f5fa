#!/usr/bin/env bash
# Pre-train a masked autoencoder on several Ascend devices of one server or of many.
# Results: scripts/train_parallel<i>/ (log, env.log, pid, exit_code, outputs/), i from 0.
#   bash scripts/pretrain_distribute.sh [MODEL] RANK_TABLE_FILE CONFIG_PATH [--key value ...]
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname -- "$0")/_lib.sh"

launch distribute ascend pretrain mae "$@"
