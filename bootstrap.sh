#!/usr/bin/env bash
# Set up a fresh Debian or Ubuntu machine: install Python, its venv module and OpenGL from apt where they are missing,
# then create a virtual environment with the pinned packages. Safe to run again; `make demo` and `make test` call it.
# Usage: bootstrap.sh EXTRA   (an extra of setup.py: all, dev; or ros: what --robot franka_ros needs in addition)
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")"
extra=${1:-all}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

# need COMMENT PACKAGE...: install packages through apt, or say how.
need() {
    local why=$1
    shift
    echo "set-up: $why: installing $*"
    if ! { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        echo "set-up: could not install them (log: $log); run: sudo apt-get install $*" >&2
        return 1
    fi
}

log=$(mktemp -t ghvae-set-up.XXXXXX)

# find_python: print the first interpreter that is Python 3.11 or newer.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# The system's own Python where apt has 3.11 or newer (Debian 12, Ubuntu 24.04), else python3.11 (Ubuntu 22.04).
if ! python=$(find_python) && [ -z "${PYTHON:-}" ]; then
    need "Python 3.11 or newer is missing" python3 python3-venv || true
    python=$(find_python) || need "python3 is too old" python3.11 python3.11-venv || true
fi
if ! python=$(find_python); then
    found=$("${PYTHON:-python3}" --version 2>&1 || true)
    echo "set-up: expected Python 3.11 or newer, found ${found:-none}; install it, then run: PYTHON=/path/to/python3.11 make demo" >&2
    rm -f "$log"
    exit 1
fi
if [ -x .venv/bin/python ] && ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "set-up: .venv was made by $(.venv/bin/python --version 2>&1), expected Python 3.11 or newer; remove .venv and run this again" >&2
    rm -f "$log"
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    need "Python's venv module is missing" "$(basename "$(readlink -f "$(command -v "$python")")")-venv" || exit 1
fi
# MuJoCo renders through EGL; without it the simulator casts rays instead, which is slower but needs no library.
if ! ldconfig -p | grep -q 'libEGL_mesa\|libEGL_nvidia' || ! ldconfig -p | grep -q 'libGL\.so\.1'; then
    need "OpenGL is missing" libegl1 libgl1 || echo "set-up: continuing without OpenGL; images are rendered by ray casting"
fi

# ROS 1 as Debian packages it: no workspace, no catkin. The virtual environment sees it after its own packages.
set_up_ros() {
    local packages=(python3-rospy python3-rosmaster python3-actionlib python3-genpy python3-std-srvs
        python3-sensor-msgs python3-geometry-msgs python3-trajectory-msgs)
    if ! dpkg -s "${packages[@]}" >/dev/null 2>&1; then
        local began=$SECONDS
        need "ROS is missing" "${packages[@]}" || return 1
        local size
        size=$(grep -oE '[0-9]+ newly installed|Need to get [0-9.,]+ .B|After this operation, [0-9.,]+ .B' "$log" | paste -sd ';' || true)
        echo "set-up: ROS was installed in $((SECONDS - began)) s ($size)"
    fi
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | while read -r site; do
        echo /usr/lib/python3/dist-packages >"$site/ros.pth"
    done
}

if [ "$extra" = ros ]; then
    [ -x .venv/bin/python ] || "$0" all
    set_up_ros
    rm -f "$log"
    exit
fi

stamp=".venv/ready-$extra"
if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "set-up: Python packages into .venv (pinned by constraints.txt)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$extra]"
    touch "$stamp"
fi
if [ "$extra" = dev ]; then
    set_up_ros || echo "set-up: continuing without ROS; the tests of --robot franka_ros are skipped"
fi
rm -f "$log"
