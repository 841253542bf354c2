#!/usr/bin/env bash
# test_kernels on a real GPU: every case, on templates whose constants are variables, by plain kernels and by the fast rows that take it,
# then on specialised code for a sample of the cases, and on PTX.
#
#   kernels.sh [CODE]      CODE: a folder of code made elsewhere (gpu_code), with CODE/special for specialised code
#
# $PFQC_BIN: see gpu.bash. Exit status 77 where there is no GPU or, without CODE, no NVRTC.
. "$(dirname "$0")/gpu.bash"
code=${1:-$tmp/code}
[ $# -gt 0 ] || kernel_code "$code"
status=0
one() { # what, folder, settings
    echo "-- $1"
    env PFQ_GPU_CODE="$2" "${@:3}" timeout 600 "$test" gpu "$bin/kernels-gpu.so" || status=1
}
one "constants as variables" "$code"
one "fast rows, tiles, fragments" "$code" PFQ_FAST=1
[ ! -d "$code/special" ] || one "specialised code" "$code/special"
[ ! -d "$code/compute_80" ] || one "PTX" "$code" PFQ_GPU_ARCH=compute_80 PFQ_QUARTER=1
[ ! -d "$code/compute_80" ] || one "PTX, fast rows" "$code" PFQ_GPU_ARCH=compute_80 PFQ_FAST=1 PFQ_QUARTER=1
exit $status
