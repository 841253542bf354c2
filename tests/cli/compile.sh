#!/usr/bin/env bash
# What a compile leaves behind: the same bytes anywhere, readable sources that compile by themselves, whole files or none.
. "$(dirname "$0")/common.bash"
sample=$root/samples/tinystories
targets=cpu:x86-64-v3,cpu:icelake-server
compile() { "$PFQC" "$sample/model.json" --recipe w4a16 --target $targets "$@" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }; }

# 1. Same bytes in another folder, time zone, locale, umask, with another number of threads.
# What an earlier compile of another recipe left there makes no difference.
mkdir -p "$tmp/a" "$tmp/b/deep er"
"$PFQC" "$sample/model.json" --recipe float --target cpu:x86-64-v3 -o "$tmp/a/out" 2>"$tmp/err" || { cat "$tmp/err"; fail "recipe float"; }
compile -o "$tmp/a/out" --threads 1
(cd "$tmp/b/deep er" && { export TZ=Asia/Tokyo LC_ALL=de_DE.UTF-8 TMPDIR="$tmp/b" HOME=/; } 2>/dev/null && compile -o "out 2" --threads 3)
diff -r "$tmp/a/out" "$tmp/b/deep er/out 2" || fail "the outputs differ"
name=$(cd "$tmp/a/out" && ls *.weights)
name=${name%.weights}
out=$tmp/a/out

# 2. Nothing in the outputs names a folder of this machine.
if grep -rlaF -e "$tmp" -e "$sample" -e "$(dirname "$PFQC")" "$out"; then fail "a path leaked"; fi

# 3. The program runs with every variant that this CPU has, from another folder.
"$out/$name" self-test >"$tmp/self" 2>&1 || { cat "$tmp/self"; fail "self-test"; }
grep -q "prefill: ok" "$tmp/self" && grep -q "decode: ok" "$tmp/self" || fail "nothing was recorded for self-test"
first=
for v in avx512vnni avx2; do
    if ids=$(cd / && "$out/$name" logits --tokens 1,80,147,201 --top 3 --cpu $v 2>"$tmp/err"); then
        ids=$(grep -oE '\[[0-9]+,' <<<"$ids")
        [ -z "$first" ] || [ "$ids" = "$first" ] || fail "variants disagree: $ids, $first"
        first=$ids
    else
        grep -q "$v" "$tmp/err" || fail "no sentence about $v: $(cat "$tmp/err")"
    fi
done

# 4. The sources compile by themselves; the kernels name no function that is not theirs.
clang=$(command -v clang-19 || true)
cc -std=c17 -Wall -Wextra -Werror -c "$out/src/model.c" -o "$tmp/model.o"
for k in "$out"/src/kernels/*.c; do
    [ -n "$clang" ] || break
    (cd "$(dirname "$k")" && $clang -O3 -std=gnu17 -march=x86-64-v3 -ffp-contract=off -fno-math-errno -c "$k" -o "$tmp/k.o")
    und=$(nm -u "$tmp/k.o" | grep -vE ' (mem(cpy|set|move)|_GLOBAL_OFFSET_TABLE_)$' || true)
    [ -z "$und" ] || fail "$k needs $und"
done
nm "$out/$name" | grep -qE ' avx2_linear_' || fail "kernels have no symbols"

# The program needs libc and libm alone, and no glibc newer than 2.34 (README).
needed=$(readelf -d "$out/$name" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
[ "$needed" = "libc.so.6 libm.so.6 " ] || [ "$needed" = "libc.so.6 " ] || fail "the program needs $needed"
floor=$(readelf -V "$out/$name" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
[ "$(printf '%s\nGLIBC_2.34\n' "$floor" | sort -V | tail -n 1)" = GLIBC_2.34 ] || fail "the program needs $floor"

# 5. Weights inside: one file that works alone.
compile -o "$tmp/e" --embed-weights
[ ! -e "$tmp/e/$name.weights" ] || fail "--embed-weights left a weights file"
mkdir "$tmp/moved" && mv "$tmp/e/$name" "$tmp/moved/renamed"
"$tmp/moved/renamed" self-test >"$tmp/self" 2>&1 || { cat "$tmp/self"; fail "self-test of the embedded weights"; }

# 6. No C compiler, or a failing one: one error, exit 1, no program, nothing temporary.
refused() { # PFQC_CC, expected text
    rm -rf "$tmp/r"
    local status=0
    PFQC_CC=$1 "$PFQC" "$sample/model.json" --recipe w4a16 --target cpu:x86-64-v3 -o "$tmp/r" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] || fail "PFQC_CC=$1 ended with status $status"
    grep -q "error\[E0604\].*$2" "$tmp/err" || fail "PFQC_CC=$1 said: $(cat "$tmp/err")"
    [ "$(grep -c 'error\[' "$tmp/err")" -eq 1 ] || fail "more than one error: $(cat "$tmp/err")"
    [ -z "$(find "$tmp/r" -maxdepth 1 -name "$name*")" ] || fail "left $(ls "$tmp/r")"
    [ -z "$(find "$tmp/r" -name '*.tmp*')" ] || fail "left temporary files"
}
refused /nowhere/cc "cannot be run"
refused false "failed with status 1"
refused true "wrote no program"

# 7. Unknown targets name what there is.
if "$PFQC" "$sample/model.json" --target cpu:znver44 -o "$tmp/r" 2>"$tmp/err"; then fail "accepted cpu:znver44"; fi
grep -q "error\[E0601\]" "$tmp/err" && grep -q "did you mean cpu:znver4" "$tmp/err" && grep -q "cpu:sapphirerapids" "$tmp/err" || fail "said: $(cat "$tmp/err")"

# 8. An output folder that cannot be: one error.
touch "$tmp/file"
if "$PFQC" "$sample/model.json" --recipe w4a16 -o "$tmp/file" 2>"$tmp/err"; then fail "wrote into a file"; fi
grep -q "error\[E0702\]" "$tmp/err" || fail "said: $(cat "$tmp/err")"

# 9. What no kernel computes is refused, not computed otherwise: a cache of two formats, a product with a value a row.
unlike() { # expected text, options
    local text=$1 status=0
    shift
    "$PFQC" "$@" --target cpu:x86-64-v3 -o "$tmp/u" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] && grep -q "error\[E0602\].*$text" "$tmp/err" || fail "$* did not say: $text"
    [ ! -e "$tmp/u/$name" ] || fail "$* made a program"
}
for part in k v; do
    unlike 'keys are kept in .* and values in .*, expected one format' "$sample/model.json" --set weights.method=rtn --set dynamic-scales.skip=$part
done
mkdir "$tmp/gate"
cp "$sample"/* "$tmp/gate"
sed -i 's/{"id": "x_next", "op": "add", "in": \["x_mid", "down"\]}/{"id": "w1", "op": "slice", "in": ["@model.layers.{l}.mlp.gate_proj.weight"], "axis": 0, "begin": 0, "end": 1},\n{"id": "gs", "op": "linear", "in": ["n2", "w1"]}, {"id": "gd", "op": "mul", "in": ["down", "gs"]},\n{"id": "x_next", "op": "add", "in": ["x_mid", "gd"]}/' "$tmp/gate/model.json"
unlike 'its operands are f32\[.*,128\] and f32\[.*,1\], expected one shape' "$tmp/gate/model.json" --recipe float
echo "compile: same bytes anywhere, sources stand alone, refusals are clean"
