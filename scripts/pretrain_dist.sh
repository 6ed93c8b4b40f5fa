#!/usr/bin/env bash
# Another name of pretrain_distribute.sh.
exec bash "$(dirname -- "$0")/pretrain_distribute.sh" "$@"
