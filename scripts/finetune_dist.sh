#!/usr/bin/env bash
# Another name of finetune_distribute.sh.
exec bash "$(dirname -- "$0")/finetune_distribute.sh" "$@"
