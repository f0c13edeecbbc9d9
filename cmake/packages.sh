# packages.sh - which Debian packages are missing, and how to get them. Sourced by quickstart.sh and
# tests/run.sh.
#
#     packages_need_build            what building cairn takes
#     packages_need gdb "why" command gdb
#     packages_install || exit 1     one apt-get call, or a list of what to install by hand
#
# Nothing is installed where everything is there, and nothing but what is missing.
# shellcheck shell=bash

packages_missing=()

# packages_have command NAME | header NAME | python MODULE
packages_have() {
    case "$1" in
    command) command -v "$2" >/dev/null 2>&1 ;;
    header) [ -e "/usr/include/$2" ] || printf '#include <%s>\n' "$2" | cc -E - >/dev/null 2>&1 ;;
    python) python3 -c "import $2" >/dev/null 2>&1 ;;
    *) return 1 ;;
    esac
}

# packages_need PACKAGE REASON KIND NAME: remember the package unless KIND NAME is there.
packages_need() {
    if ! packages_have "$3" "$4"; then
        packages_missing+=("$1")
        printf '  missing: %-18s %s\n' "$1" "$2"
    fi
}

# A library counts as there when its header is: pkg-config itself may be the thing that is missing.
packages_need_build() {
    packages_need gcc "the C compiler" command cc
    packages_need libc6-dev "the C library's headers" header stdio.h
    packages_need make "runs the build" command make
    packages_need cmake "configures the build (3.25 or newer)" command cmake
    packages_need pkg-config "finds the libraries below" command pkg-config
    packages_need libzstd-dev "compresses checkpoints" header zstd.h
    packages_need libjansson-dev "reads JSON" header jansson.h
    packages_need libarchive-dev "reads .tar.gz and .tar.zst data sets" header archive.h
    packages_need libxxhash-dev "digests of checkpoints" header xxhash.h
    packages_need libinih-dev "reads --config files" header ini.h
    packages_need libhdf5-dev "writes models for Keras" header hdf5/serial/hdf5.h
    packages_need librandom123-dev "the counter-based random generator" header Random123/philox.h
    packages_need libprotobuf-c-dev "writes event files and ONNX" header protobuf-c/protobuf-c.h
    packages_need protobuf-c-compiler "makes C of .proto files" command protoc-c
}

packages_give_up() {
    printf '\nerror: %s\n' "$1" >&2
    printf 'Please install these packages (names as in Debian and Ubuntu), then run this again:\n' >&2
    printf '    %s\n' "${packages_missing[*]}" >&2
    return 1
}

# Install what packages_need remembered. Returns 1, with the list on stderr, when it cannot.
packages_install() {
    [ ${#packages_missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        { packages_give_up "this system has no apt-get"; return 1; }
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            { packages_give_up "not root, and there is no sudo"; return 1; }
        # Ask for a password only where somebody can type one.
        if ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && sudo true; }; then
            packages_give_up "not root, and sudo does not let this user in"
            return 1
        fi
        as_root=(sudo)
    fi
    printf '\nInstalling with apt-get: %s\n' "${packages_missing[*]}"
    local log
    log=$(mktemp)
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update >"$log" 2>&1 </dev/null; then
        tail -n 5 "$log" >&2
        printf 'warning: apt-get update failed (no network?); trying with the lists that are here\n' >&2
    fi
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        install "${packages_missing[@]}" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        packages_give_up "apt-get could not install them (its last words are above)"
        return 1
    fi
    rm -f "$log"
    packages_missing=()
}

# CMake older than what CMakeLists.txt asks for cannot be helped by apt.
packages_check_cmake() {
    local version
    version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
    if [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" != 3.25 ]; then
        printf 'error: CMake %s is too old, 3.25 or newer is needed.\n' "$version" >&2
        printf 'Debian 12 and Ubuntu 24.04 have it; elsewhere: pip install cmake, or cmake.org.\n' >&2
        return 1
    fi
}
