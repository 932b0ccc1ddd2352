# Shared by deploy/kafka and deploy/rabbitmq: private brokers of this checkout. To be sourced by bash, after deploy/lib.sh.
# shellcheck shell=bash

readonly BROKERS_DIR="${LEAT_BROKERS:-$LEAT_ROOT/.brokers}"
readonly START_SECONDS_MAX=90
readonly STOP_SECONDS_MAX=30

# broker_usage NAME PORT: what both scripts take.
broker_usage() {
  cat <<TEXT
usage: deploy/$1 start|stop|kill|status|wipe [--port N] [--dir DIR] [--properties FILE] [--help]

A private $1 on 127.0.0.1 for trying Leat and for its tests: no system service, no other broker is touched.

  start   starts it and waits until it is ready; nothing happens when it runs
  stop    stops it in order; its data stay
  kill    ends it as a crash would (SIGKILL)
  status  says whether it runs: exit code 0 when it does, 3 when it does not
  wipe    stops it and deletes its folder

  --port N   its port (default: $2)
  --dir DIR  its folder: data, configuration and log (default: .brokers/$1-PORT in the checkout)
  --properties FILE
             lines for its configuration (server.properties, rabbitmq.conf), such as listeners with TLS
TEXT
}

# parse_broker_arguments NAME PORT ARGUMENTS...: sets verb, port, dir and extra.
parse_broker_arguments() {
  local name="$1"
  port="$2"
  shift 2
  verb="${1:-}"
  dir=""
  extra=""
  local default_port="$port"
  (($# == 0)) || shift
  while (($# > 0)); do
    case "$1" in
      --port | --dir | --properties)
        if (($# < 2)) || [[ -z "$2" ]]; then
          printf 'error: %s needs a value\n' "$1" >&2
          exit 2
        fi
        case "$1" in
          --port) port="$2" ;;
          --dir) dir="$2" ;;
          --properties) extra="$2" ;;
        esac
        shift 2
        ;;
      -h | --help)
        verb=help
        shift
        ;;
      *)
        printf 'error: unknown argument: %s\n\n' "$1" >&2
        broker_usage "$name" "$default_port" >&2
        exit 2
        ;;
    esac
  done
  if ! [[ "$port" =~ ^[0-9]{1,5}$ ]] || ((10#$port < 1024 || 10#$port > 65000)); then
    printf 'error: --port takes a number from 1024 to 65000, not: %s\n' "$port" >&2
    exit 2
  fi
  dir="${dir:-$BROKERS_DIR/$name-$port}"
  [[ "$dir" == /* ]] || dir="$PWD/$dir"
  case "$verb" in
    start | stop | kill | status | wipe) ;;
    help | -h | --help)
      broker_usage "$name" "$default_port"
      exit 0
      ;;
    *)
      printf 'error: %s\n\n' "${verb:+unknown command: $verb}${verb:-no command}" >&2
      broker_usage "$name" "$default_port" >&2
      exit 2
      ;;
  esac
}

# started_at PID: when the process began, in the kernel's ticks; nothing when there is none. Tells a process from a later one of
# the same number.
started_at() {
  [[ -r "/proc/$1/stat" ]] || return 0
  # The name in parentheses may hold spaces; what follows it does not. A zombie has ended when
  # the last of its threads has.
  sed -e 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '!($1 == "Z" && $18 <= 1) {print $20}'
}

# remember NAME PID: keeps in DIR/NAME.pid what is ours.
remember() {
  printf '%s %s\n' "$2" "$(started_at "$2")" >"$dir/$1.pid"
}

# ours NAME: the pid of the process that was remembered, while it runs.
ours() {
  local pid began
  [[ -f "$dir/$1.pid" ]] || return 0
  read -r pid began <"$dir/$1.pid" || return 0
  if [[ -n "$began" && "$(started_at "$pid")" == "$began" ]]; then
    printf '%s\n' "$pid"
  fi
}

# end NAME SIGNAL: sends it to what is ours, with all of its process group, and waits for its end; SIGKILL when it takes too long.
end() {
  local pid group
  pid="$(ours "$1")"
  [[ -n "$pid" ]] || return 0
  group="$(sed -e 's/^.*) //' "/proc/$pid/stat" | cut -d ' ' -f 3)"
  kill -"$2" -- "-$group" 2>/dev/null || true
  local waited=0
  while [[ -n "$(ours "$1")" ]]; do
    sleep 0.05
    waited=$((waited + 1))
    if ((waited == STOP_SECONDS_MAX * 20)); then
      say "$1 did not end within $STOP_SECONDS_MAX s: killing it"
      kill -KILL -- "-$group" 2>/dev/null || true
    fi
  done
  rm -f "$dir/$1.pid"
}

# port_taken PORT: whether something listens there on loopback.
port_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# daemon LOG COMMAND...: starts it in a session of its own without our descriptors (a lock that a caller holds must not live as
# long as the broker does). Its pid is in daemon_pid.
daemon() {
  local log="$1"
  shift
  (
    local descriptor
    for descriptor in /proc/self/fd/*; do
      descriptor="${descriptor##*/}"
      if ((descriptor > 2 && descriptor != 255)); then
        eval "exec $descriptor>&-" 2>/dev/null || true
      fi
    done
    exec setsid "$@" >>"$log" 2>&1 </dev/null
  ) &
  daemon_pid=$!
}

# wait_until_ready NAME LOG CHECK...: until CHECK succeeds; ends the script when the process ends first, or at the limit.
wait_until_ready() {
  local name="$1" log="$2" deadline=$((SECONDS + START_SECONDS_MAX))
  shift 2
  until "$@"; do
    if [[ -z "$(ours "$name")" ]]; then
      tail -n 20 "$log" >&2 || true
      die "$name ended while it was starting (its log: $log)"
    fi
    if ((SECONDS >= deadline)); then
      tail -n 20 "$log" >&2 || true
      end "$name" KILL
      die "$name was not ready within $START_SECONDS_MAX s (its log: $log)"
    fi
    sleep 0.05
  done
}
