# Shared by deploy/run and deploy/test. To be sourced by bash, after `set -euo pipefail`.
# shellcheck shell=bash

LEAT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly LEAT_ROOT
readonly PACKAGES_FILE="$LEAT_ROOT/deploy/packages.txt"
readonly APT_ATTEMPTS_MAX=3
readonly POLICY_FILE=/usr/sbin/policy-rc.d

# say MESSAGE...: one line of progress, told apart from the output of the tools that are called. On standard error,
# so that functions whose output is captured can talk too.
say() {
  printf '==> %s\n' "$*" >&2
}

# die MESSAGE...: says why, and ends the script with 1.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# required_packages: the names in packages.txt, one a line.
required_packages() {
  sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$PACKAGES_FILE"
}

# missing_packages: those of them that are not fully installed, one a line.
missing_packages() {
  local package status
  while IFS= read -r package; do
    # dpkg-query fails on a package that it has never heard of: that one is missing too.
    status="$(dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null || true)"
    if [[ "${status%%$'\n'*}" != installed ]]; then
      printf '%s\n' "$package"
    fi
  done < <(required_packages)
}

# as_root COMMAND...: runs it as root, through sudo where needed.
as_root() {
  if [[ "$(id -u)" -eq 0 ]]; then
    "$@"
  else
    sudo "$@"
  fi
}

# retry COMMAND...: up to APT_ATTEMPTS_MAX times, with a growing pause in between. For what goes over the network.
retry() {
  local attempt
  for ((attempt = 1; attempt <= APT_ATTEMPTS_MAX; attempt++)); do
    if "$@"; then
      return 0
    fi
    if ((attempt < APT_ATTEMPTS_MAX)); then
      say "that failed; attempt $((attempt + 1)) of $APT_ATTEMPTS_MAX in $((attempt * 5)) s"
      sleep "$((attempt * 5))"
    fi
  done
  return 1
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"
}

allow_service_starts() {
  as_root rm -f "$POLICY_FILE"
}

# Debian starts a service as soon as it is installed. The benchmarks want the nginx program only: a newcomer's machine
# must not begin to listen on port 80 because Leat was tried on it.
forbid_service_starts() {
  if [[ -e "$POLICY_FILE" ]]; then
    return 0
  fi
  trap allow_service_starts EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY_FILE" >/dev/null
  as_root chmod 0755 "$POLICY_FILE"
}

# install_packages: installs what packages.txt names and the machine lacks. Does nothing, quickly, when all is there.
install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "this is not a Debian system (Leat is built on Debian 12; elsewhere, install what deploy/packages.txt names and build by hand)"
  fi
  local missing
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} == 0)); then
    say "all packages of deploy/packages.txt are installed"
    return 0
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  if [[ "$(id -u)" -ne 0 ]] && ! command -v sudo >/dev/null; then
    die "packages are missing and there is no sudo (as root: apt-get install ${missing[*]})"
  fi
  retry apt_get update -q || die "apt-get update failed (is there a network, and is /etc/apt/sources.list right?)"
  (
    forbid_service_starts &&
      retry apt_get install -q -y --no-install-recommends "${missing[@]}"
  ) || die "apt-get install failed (its own message is above; conflicting Boost 1.74 packages have to be removed first)"
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]} != 0)); then
    die "still missing after apt-get: ${missing[*]} (look at apt-get's output above)"
  fi
  say "packages installed"
}

# build_jobs: how many compilers at a time: one a core, and not more than memory bears.
build_jobs() {
  local cores memory_jobs
  cores="$(nproc)"
  # A unit with Beast or Protobuf in it takes up to 1 GiB with sanitizers on.
  memory_jobs="$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)"
  if ((memory_jobs < 1)); then
    memory_jobs=1
  fi
  echo "$((cores < memory_jobs ? cores : memory_jobs))"
}

# configure PRESET
configure() {
  local preset="$1"
  (cd "$LEAT_ROOT" && cmake --preset "$preset" >"$LEAT_ROOT/build/$preset.configure.log" 2>&1) || {
    cat "$LEAT_ROOT/build/$preset.configure.log" >&2
    return 1
  }
}

# configure_and_build PRESET [TARGET...]: everything, or the targets named.
configure_and_build() {
  local preset="$1"
  shift
  mkdir -p "$LEAT_ROOT/build"
  say "building preset $preset${*:+: $*}"
  configure "$preset" || return 1
  local targets=()
  if (($# > 0)); then
    targets=(--target "$@")
  fi
  (cd "$LEAT_ROOT" && cmake --build --preset "$preset" --parallel "$(build_jobs)" "${targets[@]}") >&2
}
