# shellcheck shell=bash
# Sourced by the scripts beside it. Sets ROOT, the repository, and offers
#   prepare_environment   sets PY to a Python in which requirements.txt is installed; installs it where it is not
#   pip_install ARGS      installs more into that Python
#   fail SENTENCE         prints it and ends with code 2
# PYTHON names the interpreter to build with, ZOO_VENV another place than .venv in the repository;
# ZOO_VENV=none takes PYTHON (or python3) with the packages that it has, and installs nothing.

set -euo pipefail
ROOT=$(CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
REQUIREMENTS=$ROOT/requirements.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
[ -n "${HOME-unset}" ] || unset HOME # an empty HOME would put caches into the root of the disk

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Print "3.11" for an interpreter that runs; a launcher without an interpreter behind it prints nothing and fails.
python_version() {
    "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

supported() {
    case "$1" in 3.10 | 3.11 | 3.12) ;; *) return 1 ;; esac
}

can_make_venv() {
    "$1" -I -c 'import ensurepip, venv' 2>/dev/null
}

no_venv_sentence() {
    printf '%s' "Python $2 ($1) has no venv or no ensurepip module to make a virtual environment with" \
        " (on Debian and Ubuntu: apt-get install python$2-venv)"
}

# Set FOUND to an interpreter that can build the environment: PYTHON, or the newest supported one on PATH.
find_python() {
    local name version others='' without=''
    if [ -n "${PYTHON:-}" ]; then
        FOUND=$(type -P "$PYTHON") || fail "PYTHON=$PYTHON is not a program."
        version=$(python_version "$FOUND") || fail "PYTHON=$PYTHON does not run as Python 3."
        supported "$version" || fail "PYTHON=$PYTHON is Python $version; MindSpore 2.10 needs 3.10, 3.11 or 3.12."
        can_make_venv "$FOUND" || fail "$(no_venv_sentence "$FOUND" "$version")."
        return
    fi
    for name in python3.12 python3.11 python3.10 python3 python; do
        while IFS= read -r FOUND; do
            version=$(python_version "$FOUND") || continue
            if ! supported "$version"; then
                others="$others $version"
            elif can_make_venv "$FOUND"; then
                return
            else
                without=${without:-$(no_venv_sentence "$FOUND" "$version")}
            fi
        done <<EOF
$(type -aP "$name")
EOF
    done
    [ -z "$without" ] || fail "$without; or name another interpreter with PYTHON=/path/to/python."
    fail "no Python 3.10, 3.11 or 3.12 on PATH${others:+ (only$others)}, and MindSpore 2.10 needs one of these:" \
        "install one (apt-get install python3.11 python3.11-venv, or conda create -n zoo python=3.11)" \
        "or name one with PYTHON=/path/to/python."
}

# Print a line for every pinned package that PY lacks or has in another version.
deviations() {
    "$PY" - "$REQUIREMENTS" <<'EOF'
import importlib.util
import re
import sys
from importlib import metadata

modules = {"pyyaml": "yaml", "pillow": "PIL", "opencv-python-headless": "cv2"}
for name, wanted in re.findall(r"^([\w.-]+)==([\w.]+)", open(sys.argv[1], encoding="utf-8").read(), re.MULTILINE):
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = wanted  # cv2 comes in several packages: the module decides
    if importlib.util.find_spec(modules.get(name, name)) is None:
        print(f"{name} is missing")
    elif found != wanted:
        print(f"{name} is {found}, not {wanted}")
EOF
}

# Set PY to an environment of the user's own, which must have every package.
use_own_environment() {
    local found
    PY=$(type -P "${PYTHON:-python3}") || fail "ZOO_VENV=none, and there is no program ${PYTHON:-python3}."
    found=$(deviations) || fail "ZOO_VENV=none, and $PY does not run."
    found=${found//$'\n'/; }
    case "$found" in
        *missing*) fail "ZOO_VENV=none, and in $PY $found: install requirements.txt there, or leave ZOO_VENV unset." ;;
        ?*) printf 'warning: in %s %s; tested are the versions of requirements.txt.\n' "$PY" "$found" >&2 ;;
    esac
}

# Install into PY. On a terminal pip shows its own progress; otherwise the large downloads are named, and errors shown.
pip_install() {
    local log line name code=0
    if [ -t 1 ]; then
        "$PY" -m pip install "$@"
        return
    fi
    log=$(mktemp)
    "$PY" -m pip install "$@" 2>&1 | tee "$log" | while IFS= read -r line; do
        case "$line" in
            *Downloading*\ MB\)) name=${line#*Downloading } && echo "  downloading ${name%%-[0-9]*} (${line##*(}" ;;
            Installing*) echo "  installing" ;;
        esac
    done || code=$?
    [ "$code" = 0 ] || { echo "pip ended with:"; tail -n 8 "$log"; } >&2
    rm -f "$log"
    return "$code"
}

# Whether a finished installation of this very requirements.txt is there, and still whole.
ready() {
    [ -x "$PY" ] && [ "$(cat "$MARK" 2>/dev/null)" = "$(cksum <"$REQUIREMENTS")" ] && [ -z "$(deviations 2>&1)" ]
}

# Leave a working interpreter with pip at PY: keep one that is sound, make a new one otherwise.
make_venv() {
    if [ "$(cat "$MARK" 2>/dev/null)" != incomplete ] && "$PY" -m pip --version >/dev/null 2>&1 &&
        supported "$(python_version "$PY")"; then
        return
    fi
    if [ -e "$MARK" ]; then
        echo "The environment in $VENV is incomplete or broken: making it anew."
        rm -rf -- "$VENV"
    elif [ -n "$(ls -A "$VENV" 2>/dev/null)" ]; then
        fail "$VENV is there, but is no environment with pip and Python 3.10, 3.11 or 3.12:" \
            "remove it, or name another place with ZOO_VENV."
    fi
    find_python
    echo "Making a virtual environment with $FOUND in $VENV"
    { mkdir -p -- "$VENV" && echo incomplete >"$MARK"; } || fail "the environment cannot be written to $VENV."
    "$FOUND" -m venv -- "$VENV" || fail "$FOUND -m venv failed (above is why)."
}

install_requirements() {
    local before
    before=$(cat "$MARK" 2>/dev/null) || true
    echo "Installing requirements.txt (a download of 0.9 GB the first time; 3 GB on the disk)"
    echo incomplete >"$MARK"
    if ! pip_install -r "$REQUIREMENTS"; then
        echo "$before" >"$MARK" # pip gave up by itself and left what was there
        fail "pip could not install requirements.txt; behind a mirror or a proxy set PIP_INDEX_URL or HTTPS_PROXY."
    fi
    "$PY" -c 'import mindspore, numpy, yaml, PIL, cv2, tqdm, psutil' ||
        fail "the packages are installed, but do not load on this machine (above is why)."
    cksum <"$REQUIREMENTS" >"$MARK"
    echo "Installed in $SECONDS s."
}

prepare_environment() {
    if [ "${ZOO_VENV:-}" = none ]; then
        use_own_environment
        return
    fi
    VENV=${ZOO_VENV:-$ROOT/.venv}
    case "$VENV" in /*) ;; *) VENV=$PWD/$VENV ;; esac
    PY=$VENV/bin/python
    MARK=$VENV/.zoo-requirements
    if [ -n "${PYTHON:-}" ] && [ -x "$PY" ] && [ "$(python_version "$PY")" != "$(python_version "$PYTHON")" ]; then
        fail "$VENV was made with another Python than PYTHON=$PYTHON: remove it, or name another place with ZOO_VENV."
    fi
    ready && return
    # Two scripts started together: the second waits, and finds the work done. Without flock nobody waits.
    exec 9<"$REQUIREMENTS"
    if command -v flock >/dev/null && ! flock -n 9; then
        echo "Another script is preparing $VENV: waiting for it."
        flock 9
    fi
    if ! ready; then
        make_venv
        install_requirements
    fi
    exec 9<&-
}
