#!/usr/bin/env bash
# The fast templates of attention, norms and transforms on emulated threads, over shapes that divide in no even way.
#   lab.sh DIRECTORY     of lab_split, lab_wgmma, lab_cache16, lab_norm, lab_quant, lab_hadamard, lab_half; exit 1 if a result is wrong
set -u
dir=$1
fail=0 n=0 failed=0

try() { # PROGRAM NAME=VALUE...
    local program=$1 out
    shift
    n=$((n + 1))
    out=$("$dir/$program" reps=0 "$@" 2>&1) && return
    fail=1
    echo "FAIL $program $*"
    echo "$out" | tail -8
    [ $((failed += 1)) -lt 8 ] || exit 1
}

attend() { # PROGRAM HEADS KV_HEADS HEAD_DIM KV STATIC Q8 T POS PREFIX WINDOW NAME=VALUE...
    local program=$1 f=$(($8 % 2))
    local c=(c_heads="$2" c_kv_heads="$3" c_head_dim="$4" c_kv="$5" c_kv_static="$6" c_q8="$7" T="$8" pos="$9" c_prefix="${10}"
        c_window="${11}" c_scale=0.1 c_qlo=-8 c_qhi=7 c_xshift=$(($8 % 3 ? 0 : 4)) c_fmt="$f" c_tiles=104)
    shift 11
    try "$program" "$@" "${c[@]}" # the first of a name counts
}

# Formats of the cache: number, static scales, integer queries.
formats=("1 1 0" "1 1 128" "2 1 128" "2 0 0" "3 1 0" "3 1 128" "3 0 128" "4 0 128" "5 0 128" "5 0 0")
groups=("4 1" "9 3" "8 1" "24 2" "2 2")
spans=("1 0 0 0" "1 700 3 0" "3 300 1 0" "5 333 17 50" "40 100 0 0" "2 640 2 100")
i=0
for f in "${formats[@]}"; do
    for s in "${spans[@]}"; do
        i=$((i + 1))
        d=$((i % 2 ? 128 : 64))
        # shellcheck disable=SC2086
        attend lab_split ${groups[i % 5]} $d $f $s grid=$((3 + i % 4)) ragged=$((i % 3 > 0)) check=4 c_parts=$((1 + i % 4)) alone=$((i / 2 % 2))
    done
done
chunks=("1 0 0 0" "70 0 3 0" "51 300 1 0" "65 33 17 50" "100 100 0 70")
for f in "${formats[@]:2}"; do
    for s in "${chunks[@]}"; do
        i=$((i + 1))
        d=$((i % 2 ? 128 : 64))
        # shellcheck disable=SC2086
        attend lab_wgmma ${groups[i % 3]} $d $f $s check=6 alone=1
    done
done

for s in "${chunks[@]}" "5 190 0 64"; do # no prefix
    read -r t pos _ window <<<"$s"
    for d in 64 128; do
        i=$((i + 1))
        # shellcheck disable=SC2086
        attend lab_cache16 ${groups[i % 3]} $d 1 1 0 $t $pos 0 $window check=6 alone=1 c_fmt=0 c_tiles=$((i % 2 * 104))
    done
done

rows=(c_qlo=-8 c_qhi=7 c_qtop=7 c_clip=0.9 c_eps=1e-5 c_scale=0.01 c_gain=1)
for k in 8 100 576 4096; do try lab_norm "${rows[@]}" c_tiles=24 T=3 c_K=$k; done # of bf16
for f in "0 0 0 0" "1 0 24 0" "1 1 24 1" "1 1 0 0" "1 0 24 1"; do
    read -r fmt static tiles half <<<"$f"
    c=("${rows[@]}" c_fmt="$fmt" c_static="$static" c_tiles="$tiles" c_half="$half" c_xshift=$((static && tiles ? 4 : 0)))
    for k in 8 100 576 4096 12288; do
        try lab_norm "${c[@]}" T=3 c_K=$k
        try lab_quant "${c[@]}" T=2 c_K=$k
    done
    for s in "14336 14336 28" "1536 1536 12" "512 512 1" "16384 16384 1" "64 64 1" "640 320 10" "96 96 3" "1792 896 28" "9728 9728 19"; do
        read -r k m base <<<"$s"
        for t in 1 3 17; do
            try lab_hadamard "${c[@]}" T=$t c_K="$k" c_N="$m" c_base="$base"
        done
    done
    [ "$half" = 0 ] && continue
    for s in "14336 28" "1536 12" "4096 1" "10240 20" "12288 12" "32768 1"; do
        read -r k base <<<"$s"
        try lab_half "${c[@]}" T=5 grid=2 c_K="$k" c_N="$k" c_base="$base"
    done
done
echo "$n cases, fail $fail"
exit $fail
