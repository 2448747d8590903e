#!/usr/bin/env bash
# Set up a fresh Debian or Ubuntu machine: install Python, its venv module and OpenGL from apt where they are missing,
# then create a virtual environment with the pinned packages. `make demo` and `make test` call it.
# It may be interrupted at any moment and run again; a second one in the same checkout waits for the first.
# Usage: bootstrap.sh EXTRA   (an extra of setup.py: all, dev; or ros: what --robot franka_ros needs in addition)
# PYTHON=/path/to/python3.11 chooses the interpreter of a new environment.
# TORCH_INDEX=URL installs torch, and nothing else, from that package index.
#
# Files in .venv: incomplete (while it is created), made-in (its checkout), torch-index, ready-EXTRA, and pip.log until
# everything is installed.
set -euo pipefail
cd "$(dirname "$0")"
here=$(pwd -P)
extra=${1:-all}
index=$(sed -E 's|//[^/@]*@|//|' <<<"${TORCH_INDEX:-}") # as it is shown and stored: without a password
ros_packages=(python3-rospy python3-rosmaster python3-actionlib python3-genpy python3-std-srvs
    python3-sensor-msgs python3-geometry-msgs python3-trajectory-msgs)

say() { echo "set-up: $*"; }

fail() {
    echo "set-up: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

# need WHY PACKAGE...: install packages through apt where this user may; else say what to type, and return 1.
need() {
    local why=$1
    shift
    if ! as_root true || ! command -v apt-get >/dev/null; then
        say "$why; as root: apt-get install $*"
        return 1
    fi
    say "$why; installing $*"
    as_root apt-get update -q >"$log" 2>&1 9>&- || true # one unreachable source need not matter
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@" >>"$log" 2>&1 9>&-; then
        tail -n 3 "$log" >&2
        say "apt could not install them; as root: apt-get install $*"
        return 1
    fi
}

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

# choose_python: set $python, with its venv module; from apt where it is missing. The system's own Python where apt has
# 3.11 or newer (Debian 12, Ubuntu 24.04), else python3.11 (Ubuntu 22.04).
choose_python() {
    if ! python=$(find_python) && [ -z "${PYTHON:-}" ]; then
        need "Python 3.11 or newer is missing" python3 python3-venv || true
        python=$(find_python) || need "python3 is too old" python3.11 python3.11-venv || true
    fi
    if ! python=$(find_python); then
        local found
        found=$("${PYTHON:-python3}" --version 2>&1 || true)
        fail "expected Python 3.11 or newer, found ${found:-none};" \
            "install it, then run: PYTHON=/path/to/python3.11 make demo"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        need "Python's venv module is missing" "$(basename "$(readlink -f "$(command -v "$python")")")-venv" || exit 1
    fi
}

# damage: print why .venv cannot be used; nothing where it can.
damage() {
    if [ ! -e .venv ] && [ ! -L .venv ]; then
        echo "there is none"
    elif [ -e .venv/incomplete ] || { [ ! -L .venv/bin/python ] && [ ! -e .venv/bin/python ]; } ||
        { [ -e .venv/pyvenv.cfg ] && [ ! -e .venv/bin/activate ]; }; then
        echo "its creation was interrupted"
    elif ! .venv/bin/python -c '' 2>/dev/null; then
        echo "its Python does not run any more"
    elif ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "it was made by $(.venv/bin/python --version 2>&1), expected Python 3.11 or newer"
    elif was_moved; then
        echo "it was made in another folder"
    elif ! has_pip; then
        echo "it has no pip for $(.venv/bin/python --version 2>&1)"
    fi
}

# was_moved: the scripts of .venv start another Python than that of this checkout.
was_moved() {
    if [ -e .venv/made-in ]; then
        [ "$(<.venv/made-in)" != "$here" ]
    else
        local line=
        [ ! -e .venv/bin/pip ] || read -r line <.venv/bin/pip
        [[ "$line" == '#!'*/python* ]] && ! [ "$(dirname "${line#\#!}")" -ef .venv/bin ]
    fi
}

# has_pip: pip is there. An environment that is in use but was made without pip is given one.
has_pip() {
    local site
    .venv/bin/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("pip") is None)' && return
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    compgen -G "$site/*.dist-info" >/dev/null && .venv/bin/python -m ensurepip >/dev/null 2>&1
}

# make_environment: an empty environment in .venv; what was there is removed. The file `incomplete` is there meanwhile.
make_environment() {
    [ ! -L .venv ] || [ -d .venv ] || rm .venv
    mkdir -p .venv
    touch .venv/incomplete
    find .venv/ -mindepth 1 ! -path .venv/incomplete -delete
    if ! "$python" -m venv .venv 2>"$log"; then # Ctrl-C would print a traceback
        cat "$log" >&2
        fail "$python could not create .venv (see above)"
    fi
    echo "$here" >.venv/made-in
    rm .venv/incomplete
}

# forget_interrupted: remove the records of packages whose files are missing or cut off, so that pip installs them
# again. Return 1 if pip is among them. pip writes INSTALLER after the files of a package.
forget_interrupted() {
    .venv/bin/python - <<'PYTHON'
import csv, shutil, sys, sysconfig
from pathlib import Path

def whole(info):
    if not all((info / name).is_file() for name in ("METADATA", "RECORD", "INSTALLER")):
        return False
    with (info / "RECORD").open(encoding="utf-8", newline="") as record:
        files = [(site / path, size) for path, _, size in csv.reader(record) if size]
    return all(file.is_file() and file.stat().st_size == int(size) for file, size in files)

site = Path(sysconfig.get_path("purelib"))
for left in site.glob("~*"):  # pip renames what it replaces
    shutil.rmtree(left) if left.is_dir() else left.unlink()
interrupted = [info for info in site.glob("*.dist-info") if not whole(info)]
for info in interrupted:
    print(f"set-up: the installation of {info.name.removesuffix('.dist-info')} was interrupted; it is repeated")
    shutil.rmtree(info)
sys.exit(any(info.name.startswith("pip-") for info in interrupted))
PYTHON
}

# install ARGUMENT...: run pip install; its own progress on a terminal, else one line a package.
install() {
    local command=(.venv/bin/python -m pip install --disable-pip-version-check --log .venv/pip.log)
    if [ -t 1 ]; then
        "${command[@]}" "$@"
    else
        "${command[@]}" --progress-bar off "$@" | sed -u -n -E \
            -e '/\.metadata /d' -e 's/^ *((Downloading|Using cached|Processing) [^ ]+\/)?/\1/' \
            -e '/^(Downloading|Using cached|Processing .*\.whl)/s/^/  /p' \
            -e 's/^Installing collected packages: (.*)/  Installing \1/p'
    fi
}

# install_torch: torch alone from TORCH_INDEX, at the version of constraints.txt; what it requires comes from pip's
# own index.
install_torch() {
    local version former
    version=$(sed -n -E 's/^torch==([^ ;+]+).*/\1/p' constraints.txt)
    say "torch $version from $index"
    rm -f .venv/ready-* # until the requirements of this build are there
    # These take the place of what pip's configuration files name; pip ignores them where they are empty.
    PIP_EXTRA_INDEX_URL=$TORCH_INDEX PIP_FIND_LINKS=.venv/include install --force-reinstall --no-deps --index-url "$TORCH_INDEX" \
        "torch==$version" || fail "TORCH_INDEX=$index: expected an index with torch $version for" \
        "$(.venv/bin/python --version) (see above), such as https://download.pytorch.org/whl/cpu"
    former=$(.venv/bin/python -m pip list --disable-pip-version-check --format=freeze |
        sed -n -E 's/^((nvidia|cuda|triton)[^=]*)==.*/\1/p')
    if [ -n "$former" ]; then # of the build that was replaced
        # shellcheck disable=SC2086
        .venv/bin/python -m pip uninstall --disable-pip-version-check -q -y $former
    fi
    echo "$index" >.venv/torch-index
}

# has_opengl: MuJoCo can render through EGL: the libraries and a driver can be loaded.
has_opengl() {
    .venv/bin/python - <<'PYTHON'
import ctypes, sys

def loads(name):
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False

driver = loads("libEGL_mesa.so.0") or loads("libEGL_nvidia.so.0")
sys.exit(not (driver and loads("libEGL.so.1") and loads("libGL.so.1")))
PYTHON
}

# report SECONDS: what was installed, how long it took and how large it is.
report() {
    .venv/bin/python - "$1" "$(du -sm .venv | cut -f1)" <<'PYTHON'
import re, runpy, sys, sysconfig
from pathlib import Path

units = {"bytes": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}
log = Path(".venv/pip.log").read_text(encoding="utf-8", errors="replace")
found = re.findall(r"(Downloading|Using cached) \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", log)
fetched = sum(float(number) * units[unit] for how, number, unit in found if how == "Downloading")
cached = sum(float(number) * units[unit] for how, number, unit in found if how == "Using cached")
cached += sum(Path(file).stat().st_size * 1e-6 for file in re.findall(r"Processing (/\S+\.whl)", log))
print(f"set-up: finished in {sys.argv[1]} s: {fetched:.0f} MB downloaded, {cached:.0f} MB of packages were here;")
print(f"set-up: .venv takes {sys.argv[2]} MB")
site = Path(sysconfig.get_path("purelib"))
if (site / "torch" / "version.py").exists():
    build = runpy.run_path(str(site / "torch" / "version.py"))
    gpus = [f"{kind} {build[key]}" for kind, key in (("CUDA", "cuda"), ("ROCm", "hip")) if build.get(key)]
    folders = [folder for name in ("torch", "nvidia", "triton") for folder in site.glob(name)]
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    print(f"set-up: torch {build['__version__']} ({', '.join(gpus) or 'CPU only'}), {size * 1e-6:.0f} MB of it")
PYTHON
    rm .venv/pip.log # tens of megabytes
}

# announce: what is fetched and how long it takes, before the packages are first installed.
announce() {
    say "installing the packages pinned in constraints.txt into .venv"
    say "to fetch: about 300 MB, and torch: 200 MB without CUDA, 2.7 GB with; this takes 2 to 10 minutes"
    if [ -z "$index" ] && [ "$(uname -m)" = x86_64 ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ]; then
        say "no NVIDIA GPU found; for a torch without CUDA:" \
            "make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    fi
}

# is_ready EXTRA: its packages, as setup.py and constraints.txt now name them, were installed.
is_ready() {
    local stamp=".venv/ready-$1"
    [ -e "$stamp" ] && ! [ setup.py -nt "$stamp" ] && ! [ constraints.txt -nt "$stamp" ] &&
        { [ -z "$index" ] || [ "$(cat .venv/torch-index 2>/dev/null)" = "$index" ]; }
}

# set_up EXTRA: an environment with the packages of an extra.
set_up() {
    local began=$SECONDS reason
    reason=$(damage)
    if [ -z "$reason" ] && { is_ready "$1" || { [ "$1" = all ] && is_ready dev; }; }; then return; fi
    if [ -z "$reason" ] && ! forget_interrupted; then reason="the installation of pip was interrupted"; fi
    if [ -n "$reason" ]; then
        [ ! -e .venv ] && [ ! -L .venv ] || say ".venv is made again: $reason"
        choose_python
        announce
        make_environment
    elif ! compgen -G '.venv/ready-*' >/dev/null; then
        announce
    else
        say "updating .venv: packages of .[$1], at the versions of constraints.txt"
    fi
    if ! has_opengl; then
        # Without EGL the simulator casts rays instead, which is slower but needs no library.
        need "OpenGL is missing" libegl1 libgl1 || say "continuing without OpenGL; images are rendered by ray casting"
    fi
    rm -f .venv/pip.log
    if [ -n "$index" ] && [ "$(cat .venv/torch-index 2>/dev/null)" != "$index" ]; then install_torch; fi
    install -c constraints.txt -e ".[$1]" ||
        fail "pip could not install the packages (see above); run the same command again to continue"
    if [ "$1" = dev ] && ! link_ros; then
        set_up_ros || say "continuing without ROS; the tests of --robot franka_ros are skipped"
    fi
    echo "$here" >.venv/made-in
    touch ".venv/ready-$1"
    report $((SECONDS - began))
}

# link_ros: make ROS 1 as Debian packages it visible in .venv, after its own packages; return 1 where it is missing.
link_ros() {
    dpkg -s "${ros_packages[@]}" >/dev/null 2>&1 || return 1
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | while read -r site; do
        echo /usr/lib/python3/dist-packages >"$site/ros.pth"
    done
}

# set_up_ros: ROS 1 as Debian packages it: no workspace, no catkin.
set_up_ros() {
    local began=$SECONDS size
    if link_ros; then return; fi
    need "ROS is missing" "${ros_packages[@]}" || return 1
    size=$(grep -oE '[0-9]+ newly installed|Need to get [0-9.,]+ .B|After this operation, [0-9.,]+ .B' "$log" |
        paste -sd ';' || true)
    say "ROS was installed in $((SECONDS - began)) s ($size)"
    link_ros
}

[ "$extra" = ros ] || grep -q "^        \"$extra\":" setup.py ||
    fail "expected an extra of setup.py (all, dev, ...) or ros, got $extra"
{ exec 9>>.venv.lock; } 2>/dev/null || fail "expected a checkout that $(id -un) may write to, got $here"
if ! flock -n 9; then
    say "another set-up is running in this checkout; waiting for it"
    flock 9
fi
log=$(mktemp -t ghvae-set-up.XXXXXX)
trap 'rm -f "$log"' EXIT
trap 'echo >&2; echo "set-up: interrupted; run the same command again to continue" >&2; exit 130' INT

case $extra in
ros)
    [ -z "$(damage)" ] || set_up all
    set_up_ros
    ;;
dev)
    set_up dev
    link_ros || true
    ;;
*) set_up "$extra" ;;
esac
