# Sourced by the scripts beside it: goes to the project's directory, and knows how to get what they need.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
project=$PWD

# Ends with a sentence.
die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# need COMMAND=PACKAGE …: installs the packages whose command is missing; a path is looked for as it is.
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%=*}" >/dev/null || [[ $pair == /* && -d ${pair%%=*} ]] || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local apt=(apt-get)
    type -P apt-get >/dev/null || die "please install: ${missing[*]} (this is not a Debian system)"
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "please run first: sudo apt-get install ${missing[*]}"
        apt=(sudo -n apt-get)
    fi
    echo "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { DEBIAN_FRONTEND=noninteractive "${apt[@]}" -qq update &&
        DEBIAN_FRONTEND=noninteractive "${apt[@]}" -qq install -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}"
    fi
    rm -f "$log"
}

# Refuses a Rust older than Cargo.toml asks for.
need_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
    type -P cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$PATH:$HOME/.cargo/bin
    type -P cargo >/dev/null || die "Rust $wanted or newer is needed: install it from https://rustup.rs"
    have=$(rustc --version 2>/dev/null | cut -d' ' -f2) || have=none
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] && [ "$have" != none ] ||
        die "Rust $wanted or newer is needed, this is $have: run 'rustup update stable'"
}
