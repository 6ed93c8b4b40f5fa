# shellcheck shell=bash
# Sourced by the launch scripts beside it, which it serves with one function:
#   launch KIND DEVICE TASK MODEL ARGUMENTS...
#       KIND     standalone (one process) or distribute (one process per device)
#       DEVICE   ascend, gpu or cpu
#       TASK     the entry point: train, eval, pretrain or finetune
#       MODEL    what is meant where neither arguments nor the path of the configuration tell the model, or ''
# The work is done by common/launch/__main__.py. Nothing is installed: the Python is the user's own.

. "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"

# Print the comment at the head of the script, and what holds for all scripts of its kind and device.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' -- "$0"
    cat <<'EOF'

The folder of CONFIG_PATH tells the model; where it does not, MODEL stands first: gmlp, convmlp, soft, hlg or mae.
Further options go to the entry point. Relative paths on the command line, and those of data and weights in the YAML
file, start where you are; results are written where the process runs. Earlier results are moved aside, never deleted.
The script shows the progress of the first process and waits. When a process fails, the others are ended, the end of
its log is shown, and its code returned. Ctrl-C ends all.

  --dry_run            check the configuration and its paths, print what would start, and start nothing
  NO_WAIT=1            leave the processes in the background
  RESULTS_DIR=DIR      put the results there instead of into scripts/
  PYTHON=FILE          the Python to use; otherwise python on PATH, if it has MindSpore, or that of .venv
EOF
    case "$1 $2" in
        standalone\ cpu) ;;
        standalone*) echo "  DEVICE_ID=N          the device, 0 unless given" ;;
        *)
            [ "$2" = ascend ] ||
                echo "  DEVICE_NUM=N         number of processes; unless given, 2 on the CPU, and nvidia-smi's count on GPUs"
            cat <<'EOF'
  HOSTS=IP:N,IP:N      the servers and how many devices of each, instead of RANK_TABLE_FILE
  SERVER_ID=N          this server, by index or id, where its addresses do not tell it
  RANK_TABLE_WAIT=S    seconds to wait for a table that a platform is still writing, 60 unless given
  MASTER_ADDR=IP       the server with rank 0, at which all processes meet; unless given, the first of the table
  MASTER_PORT=N        the port there; unless given 8118, or on a single server the first free one from 8118

The processes meet through MindSpore's dynamic cluster; RANK_TABLE_FILE only says who takes part, and which devices.
python -m common.rank_table make --devices 0-7 writes that of a server, and merge joins several. With several servers,
run the script on each, with the same table or HOSTS.
EOF
            ;;
    esac
}

suits() {
    "$1" -c 'import importlib.util as u, sys; sys.exit(sys.version_info < (3, 10) or not u.find_spec("mindspore"))' \
        2>/dev/null
}

# Set PY: PYTHON, or the first with MindSpore among python on PATH, the environment of quickstart.sh, python3 on PATH.
find_own_python() {
    local candidate venv=${ZOO_VENV:-$ROOT/.venv}
    if [ -n "${PYTHON:-}" ]; then
        PY=$(type -P "$PYTHON") || fail "PYTHON=$PYTHON is not a program."
        suits "$PY" || fail "PYTHON=$PYTHON is no Python 3.10 or newer with MindSpore."
    else
        for candidate in python "$venv/bin/python" python3 ''; do
            PY=$(type -P "$candidate") && suits "$PY" && break
            [ -n "$candidate" ] || fail "no Python 3.10 or newer with MindSpore: neither python and python3 on PATH" \
                "nor $venv/bin/python is one; install requirements.txt, or name one with PYTHON=/path/to/python."
        done
    fi
    case "$PY" in /*) ;; *) PY=$PWD/$PY ;; esac
}

launch() {
    local kind=$1 device=$2 task=$3 model=$4 from=$PWD argument
    shift 4
    for argument in "$@"; do
        case "$argument" in -h | --help) usage "$kind" "$device" && exit 0 ;; esac
    done
    [ $# -gt 0 ] || { usage "$kind" "$device" >&2 && exit 2; }
    find_own_python
    cd -- "$ROOT"
    exec "$PY" -m common.launch "$kind" "$device" "$task" "$model" "$PY" "$from" "$@"
}
