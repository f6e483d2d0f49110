# shellcheck shell=bash
# What the scripts of this folder share; sourced, not run.

die() {
  echo "error: $*" >&2
  exit 2
}

# Print a command.
show() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
}

# Print a command, and run it unless DRY_RUN is set.
run() {
  show "$@"
  if [[ -z "${DRY_RUN:-}" ]]; then
    "$@"
  fi
}

# Words quoted for another shell, in one line.
quoted() {
  local text
  printf -v text '%q ' "$@"
  echo "${text% }"
}
