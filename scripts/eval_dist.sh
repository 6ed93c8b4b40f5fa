#!/usr/bin/env bash
# Another name of eval_distribute.sh.
exec bash "$(dirname -- "$0")/eval_distribute.sh" "$@"
