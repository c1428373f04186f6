#!/usr/bin/env bash
# Sourced by others: ACCELERATOR=tpu, cuda12 or cuda13 installs JAX's plugin into .venv, where
# it is remembered: later calls keep it, and renew it when the pinned jax moves.

# The accelerator of this machine, if any; the argument is a folder in place of /.
visible() {
  local root=${1:-} driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || driver=
  if [ -n "$driver" ] || [ -e "$root/dev/nvidia0" ]; then
    # CUDA 13 needs this driver; CUDA 12 runs with newer ones too.
    if [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then echo cuda13; else echo cuda12; fi
  elif compgen -G "$root/dev/accel[0-9]*" >/dev/null; then
    echo tpu
  elif compgen -G "$root/dev/vfio/[0-9]*" >/dev/null &&
    grep -qsx 0x1ae0 "$root"/sys/bus/pci/devices/*/vendor; then
    echo tpu # a device of Google
  fi
}

# The folder of a package in .venv, by a pattern of its name and version.
package() { compgen -G ".venv/lib/python3*/site-packages/$1.dist-info"; }

# One line where a GPU or a TPU would not be used.
hint() {
  local seen plugin='jax_cuda1[23]_plugin-*'
  seen=$(visible)
  [ "$seen" != tpu ] || plugin='libtpu-[0-9]*'
  [ -z "$seen" ] || package "$plugin" >/dev/null ||
    echo "JAX lacks the plugin for this machine: ACCELERATOR=$seen ./launch/setup.sh installs it" >&2
}

into_venv() {
  if command -v uv >/dev/null; then
    run uv pip install --quiet --python .venv/bin/python "$@"
  else
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile "$@"
    run .venv/bin/python -m compileall -qq -j 0 .venv/lib || : # pip would use one core
  fi
}

# Installs the plugin that is asked for or remembered, unless it is there.
install_accelerator() {
  local mark=.venv/accelerator.txt was='' name jax other
  [ ! -f "$mark" ] || was=$(<"$mark") # such as jax[tpu]==0.12.0
  name=${was#*[} name=${ACCELERATOR:-${name%]*}}
  case "$name" in
    '') hint; return ;;
    tpu | cuda12) other=cuda13 ;;
    cuda13) other=cuda12 ;;
    *) echo "ACCELERATOR=$name: set it to tpu, cuda12 or cuda13" >&2; exit 2 ;;
  esac
  jax=$(package 'jax-[0-9]*' | sed 's|.*/jax-\(.*\)\.dist-info|==\1|') || :
  jax="jax[$name]$jax"
  [ "$was" != "$jax" ] || return 0
  # JAX loads every plugin that it finds, and both of CUDA have one name.
  ! package "jax_${other}_plugin-*" >/dev/null ||
    run .venv/bin/python -m pip uninstall --quiet --yes "jax-$other-plugin" "jax-$other-pjrt"
  into_venv "$jax"
  [ -n "$dry_run" ] || echo "$jax" >"$mark"
}
