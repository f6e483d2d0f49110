#!/usr/bin/env bash
# Train on hosts that are reached by plain SSH; the first one is the coordinator.
#
#   ssh_hosts.sh --hosts=FILE [--port=N] [--directory=DIR] [--restarts=N] [--dry_run] -- TRAIN ARGUMENTS
#
# FILE has one host per line, as `ssh` takes it; empty lines and those that begin with # are left
# out. DIR, the same on every host, is a checkout of jaxqa whose Python is DIR/.venv/bin/python, or
# `python3` where there is none. The work directory must be on a disk that all hosts share. Ctrl-C
# asks every host to save and stop.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=launchers/clusters/common.sh
source "$here/common.sh"

hosts_file='' port=8476 directory=$(dirname "$(dirname "$here")") restarts=3
while [[ $# -gt 0 ]]; do
  case $1 in
    --hosts=*) hosts_file=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --directory=*) directory=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) die "unknown argument $1; expected --hosts, --port, --directory, --restarts, --dry_run, --" ;;
  esac
  shift
done
[[ -n $hosts_file ]] || die "--hosts=FILE is missing; give a file with one host per line"
[[ -r $hosts_file ]] || die "cannot read $hosts_file"
[[ $# -gt 0 ]] || die "nothing to run; give the arguments of \`jaxqa train\` after --"

mapfile -t hosts < <(grep -vE '^[[:space:]]*(#|$)' "$hosts_file")
[[ ${#hosts[@]} -gt 0 ]] || die "$hosts_file names no host"
address=${hosts[0]##*@}

started=()
# shellcheck disable=SC2329  # the trap calls it
stop_all() {
  echo "asking ${#hosts[@]} hosts to save and stop" >&2
  for pid in "${started[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
  done
}
trap stop_all INT TERM

for number in "${!hosts[@]}"; do
  train=(launchers/train.py "--coordinator=$address:$port" "--num_processes=${#hosts[@]}"
    "--process_id=$number" "--restarts=$restarts" "$@")
  # A terminal (-tt), so that the remote side gets the hang-up, and stops, when ssh ends here.
  remote="cd $(quoted "$directory") && python=.venv/bin/python && { [ -x \$python ] || python=python3; } && exec \$python $(quoted "${train[@]}")"
  command=(ssh -tt -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[number]}" "$remote")
  show "${command[@]}"
  if [[ -z ${DRY_RUN:-} ]]; then
    "${command[@]}" &
    started+=($!)
  fi
done

status=0
for pid in "${started[@]}"; do
  # A trapped signal ends `wait` early: the process is still there, and saves.
  while kill -0 "$pid" 2>/dev/null; do
    wait "$pid" || true
  done
  wait "$pid" || status=$?
done
exit "$status"
