#!/usr/bin/env bash
# A Python without the GIL to test and measure on: compiles free-threaded CPython 3.13 from the source package of
# Debian's next release. Needs Debian and root (for the compiler and headers); takes 3 to 6 minutes on 2 cores, once.
#
#   tools/free-threaded-python.sh [PREFIX]    # default: .python3.13t in this repository, which git ignores
#   make test PYTHON=.python3.13t/bin/python3.13t
#
# The last line it prints is the interpreter's path. If that cannot be had, it says why and exits with 1.
set -euo pipefail

fail() {
    echo "free-threaded-python: $1" >&2
    exit 1
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$(realpath --canonicalize-missing "${1:-$repository/.python3.13t}")
python=$prefix/bin/python3.13t

# Complete, and really without the GIL: an interrupted build, or one without ssl or ctypes, is built again.
works() {
    [[ -x $python ]] && "$python" -c 'import ctypes, ssl, sys; assert not sys._is_gil_enabled()'
}
if works; then
    echo "$python"
    exit 0
fi

work=$(mktemp -d)
exec 3>&2  # the terminal's: where the build stops, stderr still goes to the log
clean_up() {
    local status=$?
    if ((status != 0)) && [[ -e $work/log ]]; then
        tail -n 20 "$work/log" >&3
        echo "free-threaded-python: the build failed" >&3
    fi
    rm -rf "$work"
    ((status == 0)) || exit 1
}
trap clean_up EXIT

# Sources come from the mirror that this machine already uses. Lists and archives go to a folder of our own, so that
# the system's apt never learns of the other release.
mirror=$(sed -n 's/^URIs:[[:space:]]*//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1) || true
[[ -n $mirror ]] || mirror=$(awk '$1 == "deb" { print $2; exit }' /etc/apt/sources.list 2>/dev/null) || true
[[ -n $mirror ]] || fail "no Debian mirror is set up here"
sources=$work/sources.list
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$sources"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apart=(-o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
       -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)

echo "building into $prefix, a few minutes" >&2
{
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends \
        build-essential libssl-dev libffi-dev zlib1g-dev libbz2-dev liblzma-dev libsqlite3-dev libreadline-dev
    cd "$work"
    apt-get -qq "${apart[@]}" update
    apt-get -qq "${apart[@]}" --download-only source python3.13
    tar xf python3.13_*.orig.tar.xz
    cd Python-3.13*/
    ./configure --quiet --prefix="$prefix" --disable-gil --with-ensurepip=install
    make -s -j"$(nproc)"
    make -s install
} >"$work/log" 2>&1

works || fail "what was built has a GIL, or lacks ssl or ctypes"
echo "$python"
