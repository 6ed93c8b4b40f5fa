#!/usr/bin/env bash
# Trains, evaluates, exports and uses a small gMLP on the digits that the repository carries, on the CPU, in minutes.
#   bash scripts/quickstart.sh                 from a fresh clone; makes the environment where it is missing
#   bash scripts/quickstart.sh --epochs 5      further arguments go to the training
# Every command is shown as it is run. A run that was stopped continues; what is done is not done again.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
case " $* " in *' --help '* | *' -h '*)
    sed -n '2,4s/^# //p' "$0"
    exit 0 ;;
esac
. "$(dirname -- "$0")/_env.sh"

AIM=0.96 # top-1 accuracy that the network must reach
data=gmlp/data/digits
run=gmlp/outputs/digits
previous=''
for argument in "$@"; do
    case "$argument" in --ckpt_save_dir=*) run=${argument#*=} ;; esac
    [ "$previous" != --ckpt_save_dir ] || run=$argument
    previous=$argument
done

# step NAME COMMAND...: show a command and run it; stop where it fails.
step() {
    local name=$1 word code=0
    shift
    printf '\n== %s\n$' "$name"
    for word in "$@"; do
        case "$word" in
            *\'*) printf ' %q' "$word" ;;
            *[!A-Za-z0-9_./=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$@" || code=$?
    case "$code" in
        0) return ;;
        130 | 143) printf '\nStopped in the step "%s"; run this script again to go on.\n' "$name" >&2 ;;
        *) printf 'error: the step "%s" failed with exit code %s; the command above repeats it.\n' "$name" "$code" >&2 ;;
    esac
    exit "$code"
}

prepare_environment
cd -- "$ROOT"
PY=${PY#"$ROOT"/} # short, so that the commands can be read and copied
output=$(mktemp)
trap 'rm -f -- "$output"' EXIT
SECONDS=0

step "Write the digits as a data set" "$PY" -m common.dataset.digits write "$data"
step "Train" "$PY" gmlp/train.py --config_path config/gmlp_digits.yaml --ckpt_save_dir "$run" "$@"

checkpoint=''
for file in "$run"/*-*_*.ckpt; do
    if [ -z "$checkpoint" ] || [ "$file" -nt "$checkpoint" ]; then checkpoint=$file; fi
done
step "Evaluate" "$PY" gmlp/eval.py --device_target CPU --ckpt_path "$checkpoint" | tee "$output"
accuracy=$(sed -n "s/.*'Top_1_Accuracy': \([0-9.]*\).*/\1/p" "$output")
[ -n "$accuracy" ] || fail "the evaluation printed no accuracy."

mindir=$run/gmlp_digits.mindir
if [ "$mindir" -nt "$checkpoint" ]; then
    printf '\n== Export\nThe checkpoint has been exported to %s before.\n' "$mindir"
else
    step "Export, load the file again and compare" "$PY" gmlp/export.py --device_target CPU --ckpt_path "$checkpoint" \
        --file_format MINDIR --file_name "$mindir"
fi
step "Predict a few test images (each lies in the folder of its class)" "$PY" gmlp/infer.py --device_target CPU \
    --ckpt_path "$checkpoint" --image "$data/images/val/*/000?.png" --top_k 1

cat <<EOF

== Done in $SECONDS s
top-1 accuracy   $(awk "BEGIN { printf \"%.2f\", 100 * $accuracy }") % of the test images
curves           $run/curves.png
checkpoint       $checkpoint
MINDIR           $mindir

Next
  all options                $PY gmlp/train.py --help
  the exported file          $PY gmlp/infer.py --model_file $mindir --image YOUR.png
  your own images            $PY gmlp/train.py --finetune --data_dir FOLDER       (FOLDER/CLASS/*.jpg)
  gMLP-Ti on ImageNet        $PY gmlp/train.py --config_path config/gmlp_Ti.yaml --data_dir /path/to/imagenet \\
                                 --distribute False
  the tests                  bash scripts/run_tests.sh
EOF
if ! awk -v accuracy="$accuracy" -v aim="$AIM" 'BEGIN { exit !(accuracy >= aim) }'; then
    echo "warning: the accuracy is below $AIM, which the shipped configuration reaches: was the training shortened?" >&2
    exit 1
fi
