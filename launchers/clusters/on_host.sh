#!/usr/bin/env bash
# A process of a run on this host that outlives the connection which starts it; the scripts that
# reach hosts by ssh call it there.
#
#   on_host.sh start TRAIN ARGUMENTS    start it and show its output; its status is this one's
#   on_host.sh stop  TRAIN ARGUMENTS    ask it to save and end, and wait until it has
#
# `start` follows a process that runs already. Its output is in WORKDIR/process_I.output.txt, or
# process_on_HOST.output.txt where only JAX knows the number.
set -euo pipefail
self=$(readlink -f "$0")
here=$(dirname "$self")
# shellcheck source=launchers/clusters/common.sh
source "$here/common.sh"
cd "$here/../.."

action=${1:-}
[[ $# -gt 0 ]] && shift
workdir='' name=process_on_$(hostname)
for argument in "$@"; do
  case $argument in
    --workdir=*) workdir=${argument#*=} ;;
    --process_id=*) name=process_${argument#*=} ;;
  esac
done
[[ -n $workdir ]] || die "--workdir=DIR is missing"
files=$workdir/$name

# The numbers of the process and of what keeps its status, if it is still there.
running() {
  [[ -r $files.pid ]] && read -r process keeper <"$files.pid" &&
    [[ $(ps -ww -o args= -p "$keeper") == *on_host.sh* ]] # not another one that got its number
}

case $action in
  start)
    mkdir -p "$workdir"
    touch "$files.output.txt"
    shown=0
    if running; then
      echo "$name runs already" >&2
    else
      shown=$(stat -c %s "$files.output.txt") # what earlier starts wrote
      rm -f "$files.status"
      setsid "$self" keep "$@" </dev/null >>"$files.output.txt" 2>&1 &
      keeper=$!
    fi
    tail -c "+$((shown + 1))" -f --pid="$keeper" "$files.output.txt"
    exit "$(cat "$files.status" || echo 1)"
    ;;
  keep) # in a session of its own: no terminal or connection can end it
    python=.venv/bin/python
    [[ -x $python ]] || python=python3
    # Its number is known before it begins, so that there is no moment in which `stop` misses it.
    (echo "$BASHPID $$" >"$files.pid" && exec "$python" launchers/train.py "$@") &
    status=0
    wait $! || status=$?
    echo "$status" >"$files.status"
    rm "$files.pid"
    ;;
  stop)
    if running; then
      kill -TERM "$process"
      tail -f --pid="$keeper" /dev/null
    else
      echo "$name does not run" >&2
    fi
    ;;
  *) die "expected start or stop; got '$action'" ;;
esac
