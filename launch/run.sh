#!/usr/bin/env bash
# Sourced by the other scripts: what they share. With --dry_run among the arguments,
# commands are printed and not run; the other arguments are left in `args`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dry_run=
args=()
for arg in "$@"; do
  if [ "$arg" = --dry_run ]; then dry_run=1; else args+=("$arg"); fi
done

# Prints a command, then runs it.
run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [ -n "$dry_run" ] || "$@"
}

# The same, again and again while it asks for it: 85 is a run that was told to stop and
# has saved (docs/architecture.md). RESTARTS=N starts it again up to N times after another
# end too, such as a loader that was killed, but where it would end in the same way: too
# many bad records (3), a loss that is not finite (4), Ctrl-C (130).
requeue() {
  local code left=${RESTARTS:-0}
  while :; do
    code=0
    run "$@" || code=$?
    case "$code" in
      85) ;;
      0 | 3 | 4 | 130) return "$code" ;;
      *)
        [ "$left" -gt 0 ] || return "$code"
        left=$((left - 1))
        ;;
    esac
  done
}

# Whether an argument begins with this.
given() {
  local arg
  for arg in ${args[@]+"${args[@]}"}; do
    case "$arg" in "$1"*) return 0 ;; esac
  done
  return 1
}

# What a machine of a cluster runs in the project's folder to install it, with a plugin:
# setup_there cuda12. uv fetches a Python where none fits; not every pip may install it.
setup_there() {
  echo "{ python3 -m pip install -q --user uv 2>/dev/null || :; } && \
PATH=\$HOME/.local/bin:\$PATH ACCELERATOR=${ACCELERATOR:-$1} bash launch/setup.sh"
}

# Ends the script if a setting is missing: need NAME "what it is".
need() {
  [ -n "${!1:-}" ] || { echo "set $1: $2" >&2; exit 2; }
}
