#!/bin/sh
# PID 1 of the virtual machine, twice: in the initial memory file system, and, once the disk is its root, as the system that runs
# the tests. The kernel's command line says which layout of control groups is wanted. The last line tells how it ended.
layout=$(sed -n 's/.*contain\.layout=\([a-z0-9-]*\).*/\1/p' /proc/cmdline 2>/dev/null)

mount_first() { # controllers on v1, each in a hierarchy of its own but for those that systemd mounts together
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  for together in "$@"; do
    mkdir "/sys/fs/cgroup/$together"
    mount -t cgroup -o "$together" cgroup "/sys/fs/cgroup/$together"
  done
  mkdir /sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}

mount_groups() {
  case $layout in
  v2) # as systemd does; it also hands memory, pids and cpu down, which is left to whoever needs it here
    mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/system.slice/tests.service
    echo $$ >/sys/fs/cgroup/system.slice/tests.service/cgroup.procs
    ;;
  v2-in-container | v2-delegated) # as systemd does for Docker's groups
    mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
    mkdir -p /sys/fs/cgroup/system.slice/docker.scope
    echo +memory +pids +cpu >/sys/fs/cgroup/cgroup.subtree_control
    echo +memory +pids +cpu >/sys/fs/cgroup/system.slice/cgroup.subtree_control
    echo $$ >/sys/fs/cgroup/system.slice/docker.scope/cgroup.procs
    ;;
  v1) mount_first cpu,cpuacct memory pids cpuset devices freezer blkio net_cls,net_prio ;;
  hybrid)
    mount_first cpu,cpuacct memory pids cpuset devices freezer blkio net_cls,net_prio
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup/unified
    ;;
  split) # some controllers on v1, the others left to v2
    mount_first memory
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    ;;
  none) ;;
  esac
}

if [ "$1" != system ]; then
  /bin/busybox mkdir -p /proc /sys /dev /disk
  /bin/busybox mount -t proc proc /proc
  layout=unused
  for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module" || echo "insmod $module failed"
  done
  /bin/busybox mount -t devtmpfs dev /dev
  /bin/busybox mount -t ext4 /dev/vda /disk
  /bin/busybox mount -t sysfs sys /disk/sys
  /bin/busybox mount -t proc proc /disk/proc
  /bin/busybox mount -t devtmpfs dev /disk/dev
  /bin/busybox mkdir -p /disk/checkout
  /bin/busybox tar -x -f /dev/vdb -C /disk/checkout
  /bin/busybox cp /init /disk/guest.sh
  exec /bin/busybox switch_root /disk /bin/sh /guest.sh system
fi

mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666,gid=5 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
ip link set lo up 2>/dev/null || busybox ip link set lo up
hostname vm
mount_groups
export HOME=/root LC_ALL=C.UTF-8 PATH=/opt/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH=/checkout/runtime:/checkout PYTHONDONTWRITEBYTECODE=1 COLUMNS=130 PY_COLORS=0
cd /checkout
echo "contain-vm: started $(uname -r) $layout"
again='umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup'
top=/sys/fs/cgroup
case $layout in
v2-in-container) # as in `docker run --privileged`: the topmost group is a namespace's, and has processes
  unshare -C -m sh -c "$again; sh /checkout/vm-command" </dev/null ;;
v2-delegated) # the same after what `contain doctor` advises there
  unshare -C -m sh -c "$again; mkdir $top/init; xargs -rn1 <$top/cgroup.procs >$top/init/cgroup.procs; sh /checkout/vm-command" </dev/null ;;
*) sh /checkout/vm-command </dev/null ;;
esac
echo "contain-vm: status $?"
busybox poweroff -f
