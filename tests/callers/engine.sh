# Sets up an engine of its own and runs the script $2 there; $1: an empty directory, $3: lines of storage.conf, $4: who
# runs it, `root` or `user`.
# Meant for: unshare --mount --pid --fork --kill-child --mount-proc bash engine.sh …
set -euo pipefail
dir=$1 script=$2 storage=$3 who=$4
mount --make-rprivate /
mount -t tmpfs engine "$dir"
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
mkdir -p "$dir"/{etc,graph,run,tmp,var}
chmod 755 "$dir"
cat >"$dir/etc/storage.conf" <<X
[storage]
driver = "overlay"
graphroot = "$dir/graph"
runroot = "$dir/run"
[storage.options.overlay]
$storage
X
cat >"$dir/etc/containers.conf" <<X
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
tmp_dir = "$dir/tmp"
X
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$dir/etc/policy.json"
: >"$dir/etc/registries.conf"
mount --bind "$dir/etc" /etc/containers
printf 'containers:200000:65536\nnobody:300000:65536\nroot:400000:65536\n' >"$dir/subids"
mount --bind "$dir/subids" /etc/subuid
mount --bind "$dir/subids" /etc/subgid
mknod -m 666 "$dir/fuse" c 10 229
mount --bind "$dir/fuse" /dev/fuse
mount -t tmpfs run /run
mkdir -p /run/lock
export TMPDIR=$dir/tmp HOME=$dir/var
unset XDG_RUNTIME_DIR XDG_DATA_HOME XDG_CONFIG_HOME
cd "$dir"
if [ "$who" = root ]; then exec bash -euo pipefail "$script"; fi
user=65534
home=$dir/home
mkdir -p "$home/.config/containers" "$home/run" "$home/tmp"
sed "s#^graphroot.*#graphroot = \"$home/graph\"#; s#^runroot.*#runroot = \"$home/run/storage\"#" etc/storage.conf >"$home/.config/containers/storage.conf"
sed "s#^tmp_dir.*#tmp_dir = \"$home/tmp/libpod\"#" etc/containers.conf >"$home/.config/containers/containers.conf"
cp "$script" "$home/script"
chown -R $user:$user "$home"
cd "$home"
exec setpriv --reuid $user --regid $user --clear-groups env HOME="$home" XDG_RUNTIME_DIR="$home/run" TMPDIR="$home/tmp" bash -euo pipefail script
