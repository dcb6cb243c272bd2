#!/bin/bash
# Turns a fresh set of namespaces into a host, then becomes its pid 1.
# Runs under `unshare -n -m -u -p -f`; arguments: host number, its state folder, its run folder (both
# as the machine sees them), the address of the underlay's switch, cgroup version (1 or 2).
set -eu
number=$1 state=$2 run=$3 switch=$4 cgroups=$5
name=host$number

# Read by the shell itself before /proc is replaced: the pid the machine knows it by.
read -r outer_pid _ </proc/self/stat

mount --make-rprivate /
hostname "$name"
# Fresh machines do not forward; dockerd turns it on and then sets the FORWARD policy to DROP.
# A namespace that inherits 1 would never show what that policy does to a driver.
echo 0 >/proc/sys/net/ipv4/ip_forward
ip link set lo up

mkdir -p "$state"/lib/{docker,containerd,weave} "$state/docker" /etc/docker
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$state/hosts"
echo "$name" >"$state/hostname"
# An address that refuses at once: with a real resolver every `service create` waits for a registry.
echo "nameserver $switch" >"$state/resolv.conf"
mount --bind "$state/hosts" /etc/hosts
mount --bind "$state/hostname" /etc/hostname
mount --bind "$state/resolv.conf" /etc/resolv.conf
mount --bind "$state/docker" /etc/docker
mount --bind "$run" /mnt
# What the machine has mounted there would stay listed, covered, and runc would take it for the mount
# that a plugin's files are on.
awk '$5 ~ "^/var/lib/" {print $5}' /proc/self/mountinfo | tac | while read -r point; do
  case $state/ in "$point"/*) ;; *) umount -l "$point" ;; esac
done
mount --bind "$state/lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock

mkdir /run/sys
mount -t sysfs sysfs /run/sys
if [ "$cgroups" = 2 ]; then
  # A cgroup namespace of its own (unshare -C), whose root may hold no process once controllers are on.
  mount -t cgroup2 cgroup /run/sys/fs/cgroup
  mkdir /run/sys/fs/cgroup/init
  echo 0 >/run/sys/fs/cgroup/init/cgroup.procs
  sed 's/\(^\| \)\([a-z]\)/ +\2/g' /run/sys/fs/cgroup/cgroup.controllers >/run/sys/fs/cgroup/cgroup.subtree_control
else
  mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup
fi
mount --move /run/sys /sys
rmdir /run/sys
mount -t proc proc /proc

# As systemd makes it: volumes and plugins with shared mounts need it. The peer group is a fresh one,
# so nothing leaks to the machine.
mount --make-rshared /

echo "$outer_pid" >/mnt/pid.new
mv /mnt/pid.new /mnt/pid
umount /mnt
exec docker-init -s -- sleep infinity </dev/null >/dev/null 2>&1
