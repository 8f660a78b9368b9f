#!/bin/bash
# apache.sh: a real Apache RocketMQ to compare with. 5.x: name server + broker and proxy in Local mode; 4.x: name server + broker. Needs java 17 and mvn.
#   apache.sh start [--version 5.5.0] [--store DIR] [--fresh] [--port-base N] [--cpus 0] [--extra 'key = value\n...']   waits until its ports answer
#   apache.sh stop [--kill9]    apache.sh admin ARGS...   (mqadmin)    apache.sh ports    apache.sh pids    apache.sh fetch [--version V]   (the jars only)
# Ports: gRPC 8081, proxy remoting 8080, name server 9876, broker 10911. With --port-base N they are N, N+1, N+2 and N+10 (the broker also takes N+8 and
# N+11), so that several can run side by side, each in an APACHE_HOME of its own. Everything lives in $APACHE_HOME (default ~/.cache/apache-rocketmq);
# the jars in $APACHE_LIBS (default $APACHE_HOME), which may be shared. --extra lines are added to broker.conf, the last one of a key wins.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
H=${APACHE_HOME:-$HOME/.cache/apache-rocketmq}
LIBS=${APACHE_LIBS:-$H}
OPENS="--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED"
for p in nio lang util util.concurrent; do OPENS="$OPENS --add-opens=java.base/java.$p=ALL-UNNAMED"; done
OPENS="$OPENS --add-opens=java.base/sun.nio.ch=ALL-UNNAMED"
GC="-XX:+UseG1GC -XX:G1HeapRegionSize=16m -XX:InitiatingHeapOccupancyPercent=30 -XX:MaxMetaspaceSize=320m"

die() { echo "apache.sh: $1" >&2; exit "${2:-1}"; }

wait_port() { # port pid log: until the port answers, at most two minutes; at once an error where the process is gone
  for _ in $(seq 1 2400); do
    (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null && return 0
    kill -0 "$2" 2> /dev/null || { tail -n 20 "$3" >&2; die "it ended before port $1 answered (see $3)"; }
    sleep 0.05
  done
  die "port $1 did not open (see $3)"
}

fetch() { # version: its jars into $LIBS/lib-VERSION, once
  [ -d "$LIBS/lib-$1" ] && return 0
  local profile="" part="$LIBS/lib-$1.part"
  [ "${1%%.*}" = 4 ] && profile="-P=-five"
  rm -rf "$part"
  mvn -q -B -f "$here/pom.xml" $profile -Drocketmq.version="$1" dependency:copy-dependencies -DoutputDirectory="$part" -DincludeScope=runtime
  mv "$part" "$LIBS/lib-$1"
}

configure() { # writes everything the servers read into $H/conf
  mkdir -p "$H/run" "$H/conf" "$H/logs"
  printf 'listenPort = %s\n' "$names" > "$H/conf/namesrv.conf"
  cat > "$H/conf/broker.conf" << CONF
brokerClusterName = DefaultCluster
brokerName = broker-a
brokerId = 0
brokerIP1 = 127.0.0.1
listenPort = $broker
haListenPort = $((broker + 1))
autoCreateTopicEnable = true
enablePropertyFilter = true
recallMessageEnable = true
traceTopicEnable = true
storePathRootDir = $store
storePathCommitLog = $store/commitlog
CONF
  printf "$extra\n" >> "$H/conf/broker.conf"
  printf '{"rocketMQClusterName": "DefaultCluster", "grpcServerPort": %s, "remotingListenPort": %s}\n' "$grpc" "$remoting" > "$H/conf/rmq-proxy.json"
  # 4.x insists on these files
  for f in namesrv broker tools; do echo '<configuration><root level="WARN"/></configuration>' > "$H/conf/logback_$f.xml"; done
  printf '%s\n' "$version" > "$H/run/version"
  printf '{"grpc": %s, "remoting": %s, "names": %s, "broker": %s}\n' "$grpc" "$remoting" "$names" "$broker" > "$H/run/ports"
}

launch() { # name, java arguments: in its own session, its pid into run/NAME.pid
  local name=$1; shift
  setsid $pin java -server $GC $OPENS -Duser.home="$H" "$@" > "$H/run/$name.out" 2>&1 < /dev/null &
  echo $! > "$H/run/$name.pid"
}

start() {
  local version=5.5.0 store=$H/store fresh=0 extra="" pin="" base=""
  while [ $# -gt 0 ]; do
    case $1 in
      --version) version=$2; shift 2 ;; --store) store=$(realpath -m "$2"); shift 2 ;; --fresh) fresh=1; shift ;;
      --port-base) base=$2; shift 2 ;; --cpus) pin="taskset -c $2"; shift 2 ;; --extra) extra=$2; shift 2 ;;
      *) die "unknown option $1" 2 ;;
    esac
  done
  local grpc=${base:-8081} remoting=$((${base:-8079} + 1)) names=9876 broker=10911 ready
  [ -n "$base" ] && names=$((base + 2)) broker=$((base + 10))
  fetch "$version"
  [ $fresh = 1 ] && rm -rf "$store"
  configure
  export ROCKETMQ_HOME=$H
  local classes="$H/conf:$LIBS/lib-$version/*"
  launch namesrv -Xms256m -Xmx256m -cp "$classes" org.apache.rocketmq.namesrv.NamesrvStartup -c "$H/conf/namesrv.conf"
  wait_port "$names" "$(cat "$H/run/namesrv.pid")" "$H/run/namesrv.out"
  if [ "${version%%.*}" = 4 ]; then
    set -- org.apache.rocketmq.broker.BrokerStartup -n "127.0.0.1:$names" -c "$H/conf/broker.conf"; ready=$broker
  else
    set -- org.apache.rocketmq.proxy.ProxyStartup -pm local -n "127.0.0.1:$names" -bc "$H/conf/broker.conf" -pc "$H/conf/rmq-proxy.json"; ready=$grpc
  fi
  launch proxy -Xms1g -Xmx2g -cp "$classes" "$@"
  wait_port "$ready" "$(cat "$H/run/proxy.pid")" "$H/run/proxy.out"
  echo "port $ready, name server 127.0.0.1:$names (the first route may still take 10 s)"
}

stop() {
  local sig=TERM p f pid
  [ "${1:-}" = --kill9 ] && sig=KILL
  for p in proxy namesrv; do
    f=$H/run/$p.pid
    [ -f "$f" ] || continue
    pid=$(cat "$f")
    kill -$sig "$pid" 2> /dev/null || true
    for _ in $(seq 1 1200); do kill -0 "$pid" 2> /dev/null || break; sleep 0.05; done
    rm -f "$f"
  done
}

admin() {
  ROCKETMQ_HOME=$H exec java -Xmx256m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Duser.home="$H" --add-opens=java.base/java.lang=ALL-UNNAMED \
    --add-opens=java.base/java.util=ALL-UNNAMED -cp "$H/conf:$LIBS/lib-$(cat "$H/run/version")/*" org.apache.rocketmq.tools.command.MQAdminStartup "$@"
}

verb=${1:-}; [ $# -gt 0 ] && shift
case $verb in
  start | stop | admin) $verb "$@" ;;
  fetch) [ "${1:-}" = --version ] && fetch "$2" || fetch 5.5.0 ;;
  pids) cat "$H/run/proxy.pid" "$H/run/namesrv.pid" | paste -sd, ;;
  ports) cat "$H/run/ports" ;;
  *) sed -n '2,4p' "$0"; exit 2 ;;
esac
