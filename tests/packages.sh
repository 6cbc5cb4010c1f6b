#!/bin/sh
# Installs, upgrades and removes the .deb in a Debian of its own, where systemd is PID 1 of namespaces, and checks what is left.
# `cargo xtask test packages` runs it: packages.sh DEB FOLDER. As root; needs debootstrap. FOLDER/base keeps the Debian for the
# next run. Prints each step; ends with 1 at the first that is not as it has to be.
set -eu
deb=$1
folder=$2
base=$folder/base
root=$folder/root
pid=

say() { echo "packages: $*" >&2; }
fail() {
    [ -z "$pid" ] || inside journalctl --no-pager -n 20 -u tracer.service >&2 || true
    say "FAILED: $*"
    exit 1
}

# Ends systemd, which ends all its processes and mounts, and removes the cgroup and the folder that were made.
clean() {
    status=$?
    trap - EXIT
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    [ -z "${outer:-}" ] || wait "$outer" 2>/dev/null || true
    if [ -d "$folder/cgroup/tracer-packages" ]; then
        tries=0
        until find "$folder/cgroup/tracer-packages" -depth -type d -exec rmdir {} + 2>/dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 50 ] || break
            sleep 0.1
        done
    fi
    umount "$folder/cgroup" 2>/dev/null || true
    rm -rf "$root" "$folder/repack"
    exit "$status"
}

# Runs a command next to systemd, in the cgroup of its tree.
inside() {
    nsenter -t "$pid" -m -u -i -n -p -C -r -w env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        "$@" </dev/null
}

# Waits until the command succeeds, for 20 s or a little longer: outputs have readings every 10 s.
wait_for() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail "never true: $*"
        sleep 0.2
    done
}

is_state() { [ "$(inside systemctl is-active tracer.service)" = "$1" ]; }
main_pid() { inside systemctl show -P MainPID tracer.service; }
# All files of the Debian but those of dpkg, logs and what is in memory.
listing() { inside find / -xdev -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' -not -path '/tmp/*' -not -path '/var/lib/systemd/*' | sort; }

# Makes FOLDER/repack/VERSION.deb: the same package as another version, whose configuration ends with the line $2, if given.
repack() {
    dpkg-deb -R "$deb" "$folder/repack/$1"
    sed -i "s/^Version: .*/Version: $1/" "$folder/repack/$1/DEBIAN/control"
    [ -z "${2:-}" ] || echo "$2" >>"$folder/repack/$1/etc/tracer/tracer.toml"
    dpkg-deb -Zgzip -b "$folder/repack/$1" "$root/$1.deb" >/dev/null
}

trap clean EXIT
trap 'exit 1' INT TERM HUP
[ "$(id -u)" = 0 ] || fail "not root"
command -v debootstrap >/dev/null || fail "no debootstrap: apt-get install debootstrap"
mkdir -p "$folder"
if [ ! -e "$folder/base.done" ]; then
    rm -rf "$base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,procps bookworm "$base" >"$folder/debootstrap.log" 2>&1 ||
        fail "debootstrap: see $folder/debootstrap.log"
    touch "$folder/base.done"
fi
rm -rf "$root" "$folder/repack"
cp -a "$base" "$root"
mkdir "$folder/repack"
cp "$deb" "$root/first.deb"
repack 99.1
repack 99.2 "# new in 99.2"

say "systemd"
mkdir -p "$folder/cgroup"
mount -t cgroup2 cgroup2 "$folder/cgroup"
mkdir -p "$folder/cgroup/tracer-packages/outside"
# Started from a shell that is in the cgroup, so that the cgroup namespace begins there.
# shellcheck disable=SC2016
sh -c '
    echo $$ >"$1/cgroup/tracer-packages/cgroup.procs"
    exec unshare --mount --pid --fork --uts --ipc --cgroup --net sh -euc "
        cd \"\$1\"
        mount --bind . .
        cd \"\$1\"
        mount -t proc proc proc
        mount -t sysfs sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t bpf -o mode=0700 bpf sys/fs/bpf
        mount -t tracefs tracefs sys/kernel/tracing
        mount -t tmpfs tmpfs run
        mount -t tmpfs tmpfs tmp
        mount -t tmpfs -o mode=0755 tmpfs dev
        mknod -m 666 dev/null c 1 3
        mknod -m 666 dev/zero c 1 5
        mknod -m 666 dev/full c 1 7
        mknod -m 666 dev/random c 1 8
        mknod -m 666 dev/urandom c 1 9
        mknod -m 666 dev/tty c 5 0
        mkdir dev/pts dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        mkdir host
        pivot_root . host
        exec chroot . sh -c \"umount -l /host && rmdir /host && exec env -i container=docker /lib/systemd/systemd\"
    " sh "$1/root"
' sh "$folder" >"$folder/systemd.log" 2>&1 </dev/null &
outer=$!
tries=0
until pid=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null | tr -d ' ') && [ -n "$pid" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || pid= fail "systemd did not start: see $folder/systemd.log"
    sleep 0.1
done
echo $$ >"$folder/cgroup/tracer-packages/outside/cgroup.procs"
wait_for inside systemctl is-active multi-user.target
inside ip link set lo up
listing >"$folder/before"

say "install: enabled and active"
inside dpkg -i /first.deb
wait_for is_state active
[ "$(inside systemctl is-enabled tracer.service)" = enabled ] || fail "not enabled"
inside systemctl show -P StatusText tracer.service
wait_for inside test -s /var/log/tracer/events.jsonl
inside systemd-analyze security --no-pager --threshold=35 tracer.service >"$folder/security" || fail "exposed too much: $folder/security"

say "a reload: the configuration is taken over, and the process stays; with faults, the reload fails and nothing changes"
cp "$root/etc/tracer/tracer.toml" "$folder/repack/shipped.toml"
before=$(main_pid)
sed -i 's/^\[fields\]$/&\nrack = "one"/' "$root/etc/tracer/tracer.toml"
inside systemctl reload tracer.service
wait_for inside grep -q '"rack":"one"' /var/log/tracer/events.jsonl
echo "[metrisc]" >>"$root/etc/tracer/tracer.toml"
! inside systemctl reload tracer.service || fail "a reload of a file with faults succeeds"
is_state active || fail "not active after that"
[ "$(main_pid)" = "$before" ] || fail "the service was started again"
cp "$folder/repack/shipped.toml" "$root/etc/tracer/tracer.toml"
inside systemctl reload tracer.service

say "the drop-ins: fewer rights, less memory"
mkdir "$root/etc/systemd/system/tracer.service.d"
cp "$root/usr/share/doc/tracer/host-only.conf" "$root/usr/share/doc/tracer/memory.conf" "$root/etc/systemd/system/tracer.service.d"
inside systemctl daemon-reload
inside systemctl restart tracer.service
wait_for is_state active
inside systemctl show -P StatusText tracer.service
inside systemctl show -P StatusText tracer.service | grep -q degraded || fail "it does not say that it cannot enter namespaces"
inside systemd-analyze security --no-pager --threshold=28 tracer.service >"$folder/security" || fail "exposed too much: $folder/security"
rm -r "$root/etc/systemd/system/tracer.service.d"
inside systemctl daemon-reload
inside systemctl restart tracer.service
wait_for is_state active

say "upgrade: an edited configuration is kept, and the service is started again"
echo "# edited here" >>"$root/etc/tracer/tracer.toml"
before=$(main_pid)
inside dpkg -i /99.1.deb
wait_for is_state active
[ "$(main_pid)" != "$before" ] || fail "still the old process"
inside dpkg --force-confdef -i /99.2.deb
wait_for is_state active
grep -qx "# edited here" "$root/etc/tracer/tracer.toml" || fail "the edited configuration was replaced"
! grep -qx "# new in 99.2" "$root/etc/tracer/tracer.toml" || fail "the edited configuration was replaced"
grep -qx "# new in 99.2" "$root/etc/tracer/tracer.toml.dpkg-dist" || fail "no new configuration next to it"

say "a configuration with faults: an upgrade leaves the service running"
cp "$root/etc/tracer/tracer.toml" "$folder/repack/good.toml"
echo "[metrisc]" >>"$root/etc/tracer/tracer.toml"
before=$(main_pid)
inside dpkg --force-confdef -i /99.2.deb 2>"$folder/repack/stderr"
cat "$folder/repack/stderr"
grep -q "was not started or restarted" "$folder/repack/stderr" || fail "dpkg does not say why"
is_state active || fail "not active"
[ "$(main_pid)" = "$before" ] || fail "the service was started again"

say "an installation with that configuration does not start the service"
inside dpkg -r tracer
inside dpkg --force-confdef -i /99.2.deb
is_state inactive || fail "$(inside systemctl is-active tracer.service)"
cp "$folder/repack/good.toml" "$root/etc/tracer/tracer.toml"
inside systemctl start tracer.service
is_state active || fail "not active with the right configuration"

# Not tested: that removal releases rules. `tracer spread` refuses to run in a process namespace of its own.
say "removal: no process, pin or program is left"
inside dpkg -r tracer
! inside test -e /sys/fs/bpf/tracer || fail "pins are left: $(inside find /sys/fs/bpf/tracer)"
! inside pgrep -x tracer || fail "a process is left"
! inside test -e /usr/bin/tracer || fail "the program is left"
inside test -e /etc/tracer/tracer.toml || fail "the configuration is gone"

say "purge: no file is left"
inside dpkg -P tracer
listing >"$folder/after"
diff "$folder/before" "$folder/after" || fail "files are left, or are missing"
left=$(inside find /var/log/tracer /run/tracer /sys/fs/bpf/tracer /var/lib/systemd -name '*tracer*' 2>/dev/null || true)
[ -z "$left" ] || fail "left: $left"

say "installed again: active"
inside dpkg -i /first.deb
wait_for is_state active
inside dpkg -P tracer
say "all as it has to be"
