#!/usr/bin/env bash
# Train on hosts that are reached by plain SSH; the first one is the coordinator.
#
#   ssh_hosts.sh --hosts=FILE [--port=N] [--directory=DIR] [--restarts=N] [--stop] [--dry_run] -- TRAIN ARGUMENTS
#
# FILE has one host per line, as `ssh` takes it; empty lines and those that begin with # are left
# out. DIR, the same on every host, is a checkout of jaxqa whose Python is DIR/.venv/bin/python, or
# `python3` where there is none. The work directory must be on a disk that all hosts share.
#
# The run does not need the connections: if they or this script go, the same command shows it again.
# Ctrl-C, or the same command with --stop, asks every host to save and stop, and waits until it has.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=launchers/clusters/common.sh
source "$here/common.sh"

hosts_file='' port=8476 directory=$(dirname "$(dirname "$here")") restarts=3 action=start
while [[ $# -gt 0 ]]; do
  case $1 in
    --hosts=*) hosts_file=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --directory=*) directory=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --stop) action=stop ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) die "unknown argument $1; expected --hosts, --port, --directory, --restarts, --stop, --dry_run, --" ;;
  esac
  shift
done
[[ -n $hosts_file ]] || die "--hosts=FILE is missing; give a file with one host per line"
[[ -r $hosts_file ]] || die "cannot read $hosts_file"
[[ $# -gt 0 ]] || die "nothing to run; give the arguments of \`jaxqa train\` after --"

mapfile -t hosts < <(grep -vE '^[[:space:]]*(#|$)' "$hosts_file")
[[ ${#hosts[@]} -gt 0 ]] || die "$hosts_file names no host"
address=${hosts[0]##*@}

# Start or stop on every host, and wait; the status of the last that fails.
on_hosts() {
  local number train command pid status=0 connections=()
  for number in "${!hosts[@]}"; do
    train=("--coordinator=$address:$port" "--num_processes=${#hosts[@]}" "--process_id=$number"
      "--restarts=$restarts" "${arguments[@]}")
    command=(ssh -o BatchMode=yes -o ServerAliveInterval=30 "${hosts[number]}"
      "$(quoted "$directory/launchers/clusters/on_host.sh" "$1" "${train[@]}")")
    show "${command[@]}"
    if [[ -z ${DRY_RUN:-} ]]; then
      "${command[@]}" & # in the background, where a Ctrl-C of the terminal does not end it
      connections+=($!)
    fi
  done
  for pid in "${connections[@]}"; do
    # A trapped signal ends `wait` early: the connection is still there.
    while kill -0 "$pid" 2>/dev/null; do
      wait "$pid" || true
    done
    wait "$pid" || status=$?
  done
  return "$status"
}

# shellcheck disable=SC2329  # the trap calls it
stop_all() {
  echo "asking ${#hosts[@]} hosts to save and stop" >&2
  on_hosts stop || true
}
trap stop_all INT TERM

arguments=("$@")
status=0
on_hosts "$action" || status=$?
if [[ $status -eq 255 ]]; then # ssh's own
  echo "a host is not reached; what runs goes on: the same command shows it, --stop stops it" >&2
fi
exit "$status"
