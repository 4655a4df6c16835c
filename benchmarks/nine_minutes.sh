#!/usr/bin/env bash
# benchmarks/nine_minutes.sh FOLDER [SCALE]: what nine minutes of a GPU are best used for.
#
# The smoke units first, which no GPU has run; then ReLU, 2 learnt bits and 1 fixed bit of Table 2,
# with their table and trial, as many as the time allows. Records go to FOLDER/results, to be
# moved into results/; weights and checkpoints to FOLDER/cache, so that a second call goes on.
# SCALE: workstation; smoke to try the script anywhere.
set -u
folder=${1:?give a folder for the records} scale=${2:-workstation}
export REPRODUCE_RESULTS=$folder/results REPRODUCE_CACHE=$folder/cache
end=$((SECONDS + 540))

run() { # the longest time it may take, in seconds, and what
    local most=$1 left=$((end - SECONDS))
    shift
    [ "$left" -gt 5 ] || return 0
    python -m reproduce run --time-budget "$((left < most ? left : most))s" "$@"
}

python -c "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
run 60 --scale smoke --seed 0 --suite table
for suite in table trial; do
    for cell in relu dynamic-2bit fixed-1bit; do
        run 240 --paper dqa --dataset "$([ "$scale" = smoke ] && echo patterns || echo cifar10)" \
            --scale "$scale" --seed 0 --cell "$cell" --suite "$suite"
    done
done
python -m reproduce status --paper dqa --scale "$scale"
