# Shared by the scripts: step lines, failures with a sentence, and the packages that a bare Debian 12 lacks.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C.UTF-8

step() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

build_packages=(gcc libc6-dev cmake ninja-build clang-19 llvm-19-dev libcjson-dev libutf8proc-dev libopenblas-dev)
test_packages=(llvm-19-tools libcmocka-dev libclang-rt-19-dev libpcre2-dev python3 gdb mandoc zsh fish)
pypi_packages=(jinja2==3.1.6 markupsafe==3.0.3 trl==1.16.0) # trl for the chat templates that it carries
client_packages=(openai==3.54.0 "lm-eval[api]==0.4.13") # clients of the server, for tests with the label clients
browser_packages=(chromium-headless-shell) # for tests with the label browser
demo_packages=(python3 python3-pip unzip ca-certificates)

need_packages() { # installs what is missing of the packages named
    local missing=() p
    for p in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null || die "these packages are needed (Debian 12 names): ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "run as root, or install sudo, to install: ${missing[*]}"
        as_root=(sudo)
    fi
    step "install ${missing[*]}"
    "${as_root[@]}" apt-get update -qq || die "apt-get update failed"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

need_nvrtc() { # NVRTC, which compiles CUDA kernels without GPU or driver: PFQC_NVRTC, else build/nvrtc/
    [ -z "${PFQC_NVRTC:-}" ] || return 0
    local package=nvidia-cuda-nvrtc==13.5.37 dir="$root/build/nvrtc"
    export PFQC_NVRTC="$dir/nvidia/cu13/lib"
    [ ! -d "$PFQC_NVRTC" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip ca-certificates
    step "install $package in build/nvrtc/"
    rm -rf "$dir" "$dir.new"
    python3 -m pip install -q --no-deps --target "$dir.new" "$package" ||
        die "pip could not install $package (PFQC_NVRTC names an NVRTC that is here)"
    mv "$dir.new" "$dir"
}

need_pypi() { # PyPI packages that tests compare with, in build/pypi/ (tests that miss one say so and are skipped)
    local dir="$root/build/pypi" stamp="${pypi_packages[*]}"
    [ "$(cat "$dir/.packages" 2>/dev/null)" != "$stamp" ] || return 0
    python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip ca-certificates
    step "install ${pypi_packages[*]} in build/pypi/"
    rm -rf "$dir" "$dir.new"
    if python3 -m pip install -q --no-deps --target "$dir.new" "${pypi_packages[@]}"; then
        printf '%s\n' "$stamp" >"$dir.new/.packages"
        mv "$dir.new" "$dir"
    else
        step "pip could not install them: tests with the label pypi will be skipped"
    fi
}

need_clients() { # clients of the server from PyPI, with what they need, in build/clients/
    local dir="$root/build/clients" stamp="${client_packages[*]}"
    [ "$(cat "$dir/.packages" 2>/dev/null)" != "$stamp" ] || return 0
    step "install ${client_packages[*]} in build/clients/"
    rm -rf "$dir" "$dir.new"
    if python3 -m pip install -q --target "$dir.new" "${client_packages[@]}"; then
        printf '%s\n' "$stamp" >"$dir.new/.packages"
        mv "$dir.new" "$dir"
    else
        step "pip could not install them: tests with the label clients will be skipped"
    fi
}

configure_and_build() { # folder, then cmake options
    local dir=$1
    shift
    local log="$root/$dir.log"
    step "build in $dir/"
    { cmake -S "$root" -B "$root/$dir" -G Ninja "$@" && cmake --build "$root/$dir"; } >"$log" 2>&1 ||
        { tail -n 40 "$log" >&2; die "the build in $dir/ failed (all of its output: $dir.log)"; }
}
