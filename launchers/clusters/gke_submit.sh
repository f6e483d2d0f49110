#!/usr/bin/env bash
# Fill in gke_jobset.yaml from the environment and hand it to the cluster; see that file.
#
#   gke_submit.sh [--dry_run]          --dry_run prints the manifest instead
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=launchers/clusters/common.sh
source "$here/common.sh"

manifest=$(<"$here/gke_jobset.yaml")
for variable in NAME IMAGE ARGUMENTS ACCELERATOR TOPOLOGY HOSTS CHIPS_PER_HOST CLAIM; do
  value=${!variable:-}
  [[ -n $value ]] || die "\$$variable is not set; see $here/gke_jobset.yaml"
  manifest=${manifest//"\${$variable}"/"$value"}
done
if [[ ${1:-} == --dry_run ]]; then
  echo "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
