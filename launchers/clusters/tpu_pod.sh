#!/usr/bin/env bash
# A Cloud TPU slice as a queued resource, and a run on all of its workers.
#
#   tpu_pod.sh create --name=NAME --zone=ZONE --type=v5litepod-64 [--spot] [--runtime=VERSION] [--project=P]
#   tpu_pod.sh wait   --name=NAME --zone=ZONE
#   tpu_pod.sh setup  --name=NAME --zone=ZONE --source=GIT_URL [--ref=REF]
#   tpu_pod.sh train  --name=NAME --zone=ZONE [--restarts=N] -- --config=... --workdir=/shared/run
#   tpu_pod.sh stop   --name=NAME --zone=ZONE -- --workdir=/shared/run
#   tpu_pod.sh delete --name=NAME --zone=ZONE
#
# `setup`, also to update, takes the branch, tag or full commit REF. `train` starts the same command
# on every worker; JAX finds the others through the TPU's metadata. The run does not need the
# connection: if that goes, the same command shows the run again. `stop` asks every worker to save
# and end, as a preemption does, and waits until it has. With --dry_run every action only prints what
# it would do.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=launchers/clusters/common.sh
source "$here/common.sh"

action=${1:-}
[[ $# -gt 0 ]] && shift
name='' zone='' type='' runtime='' project='' source_url='' ref=main restarts=3 spot=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --source=*) source_url=${1#*=} ;;
    --ref=*) ref=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --spot) spot=(--spot) ;;
    --dry_run) DRY_RUN=1 ;;
    --) shift && break ;;
    *) die "unknown argument $1" ;;
  esac
  shift
done
[[ -n $name && -n $zone ]] || die "--name and --zone are missing"
where=("--zone=$zone")
[[ -n $project ]] && where+=("--project=$project")

# The software image that belongs to a chip.
runtime_of() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) die "no runtime is known for $1; give --runtime=VERSION" ;;
  esac
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

on_host() {
  on_all_workers "$(quoted jaxqa/launchers/clusters/on_host.sh "$@")"
}

case $action in
  create)
    [[ -n $type ]] || die "--type is missing, for example v5litepod-64"
    [[ -n $runtime ]] || runtime=$(runtime_of "$type")
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" \
      --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}"
    ;;
  wait)
    state=''
    until [[ $state == ACTIVE ]]; do
      [[ -z ${DRY_RUN:-} ]] || { run gcloud compute tpus queued-resources describe "$name" "${where[@]}" && break; }
      state=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)')
      echo "$name: $state"
      [[ $state == FAILED || $state == SUSPENDED ]] && die "$name is $state; delete it and create it again"
      [[ $state == ACTIVE ]] || sleep 30
    done
    ;;
  setup)
    [[ -n $source_url ]] || die "--source=GIT_URL is missing"
    # The images' own Python, 3.10, is too old; uv brings another.
    on_all_workers "set -e; git init -q jaxqa; cd jaxqa; \
      git fetch -q $(quoted "$source_url" "$ref"); git checkout -q --detach FETCH_HEAD; \
      python3 -m pip install -q --user uv; python3 -m uv venv -q --clear --python 3.11 .venv; \
      python3 -m uv pip install -q -c constraints.txt -e '.[tpu]'"
    ;;
  train)
    [[ $# -gt 0 ]] || die "nothing to run; give the arguments of \`jaxqa train\` after --"
    on_host start --distributed=auto "--restarts=$restarts" "$@"
    ;;
  stop)
    [[ $# -gt 0 ]] || die "which run? give --workdir=DIR after --"
    on_host stop "$@"
    ;;
  delete)
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
    ;;
  *) die "expected create, wait, setup, train, stop or delete; got '${action}'" ;;
esac
