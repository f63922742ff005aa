# containerd in directory $1 with snapshotter $3; $2 is what mount.fuse3 finds as acetate. What is printed is compared.
# Meant for: unshare --mount --pid --fork --kill-child --mount-proc bash containerd.sh …
set -euo pipefail
dir=$1 program=$2 snapshotter=$3
mount --make-rprivate /
mount -t tmpfs engine "$dir"
mount -t tmpfs run /run
mkdir -p "$dir"/{bin,data,state,store,tmp,mnt,out}
ln -s "$program" "$dir/bin/acetate"
export PATH=$dir/bin:$PATH TMPDIR=$dir/tmp HOME=$dir CONTAINERD_ADDRESS=$dir/sock
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
cd "$dir"
say() { echo "== $*"; }
# What a container prints goes to a file: ctr can lose the end of it when there is much else to do.
run() { ctr run --snapshotter $snapshotter --mount "type=bind,src=$dir/out,dst=/mnt,options=rbind:rw" "$@"; }
snapshots() { ctr snapshots --snapshotter $snapshotter "$@"; }
# Mounts a snapshot; mount(8) knows no type fuse3, and what containerd makes of it is this.
attach() { snapshots mounts "$dir/mnt" "$1" | sed -E 's/^mount -t fuse3\.(\S+) (.*)/mount.fuse3 \2 -t \1/' | sh; }
cat >config.toml <<Y
version = 2
root = "$dir/data"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$dir/sock"
# What is looked at is not to be swept away as unused meanwhile.
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 0
  mutation_threshold = 1000000
  startup_delay = "1h"
[proxy_plugins.acetate]
  type = "snapshot"
  address = "$dir/snapshotter.sock"
Y
/usr/bin/python3 "$TOOLS/snapshotter.py" "$dir/store" "$dir/snapshotter.sock" acetate 2>>log &
helper=$!
# containerd is not patient with it.
for i in $(seq 300); do [ ! -S snapshotter.sock ] || break; sleep 0.2; done
containerd --config config.toml 2>>log &
daemon=$!
for i in $(seq 300); do snapshots ls >/dev/null 2>&1 && break; sleep 0.2; done
snapshots ls >/dev/null || { tail -n 20 log >&2; exit 1; }

# An image of three layers as `docker save` writes it, with deletions and a replaced directory.
mkdir -p one/{bin,etc,data/sub,usr/replaced,tmp,proc,sys,dev,run,mnt} two/{data,usr/replaced} three/data
cp /bin/busybox one/bin
for applet in sh ls cat rm mkdir echo sort mv ln stat touch chmod find; do ln -s busybox one/bin/$applet; done
for n in 1 2 3; do echo $n >one/data/file$n; echo $n >one/data/sub/file$n; echo $n >one/usr/replaced/file$n; done
ln one/data/file1 one/data/hard
cp one/data/file1 one/usr/setuid; chmod 4755 one/usr/setuid; chown 1000:7 one/data/file3
touch two/data/.wh.file2 two/data/.wh.sub two/usr/replaced/.wh..wh..opq; echo new >two/usr/replaced/new
echo back >three/data/file2; mkdir three/data/sub; echo new >three/data/sub/new; touch three/data/.wh.hard
find one two three -exec touch -h -d 2020-02-02T02:02:02Z {} +
sums= chain=
for layer in one two three; do
    tar -C $layer --sort=name -cf $layer.tar .
    sum=sha256:$(sha256sum <$layer.tar | cut -d' ' -f1)
    sums+=${sums:+,}\"$sum\"
    # What containerd calls the snapshot of a layer and those below it.
    if [ "$chain" ]; then chain=sha256:$(printf %s "$chain $sum" | sha256sum | cut -d' ' -f1); else chain=$sum; fi
done
echo '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":['$sums']}}' >config.json
echo '[{"Config":"config.json","RepoTags":["base:1"],"Layers":["one.tar","two.tar","three.tar"]}]' >manifest.json
tar -cf image.tar manifest.json config.json one.tar two.tar three.tar
image=docker.io/library/base:1

say import
ctr images import --snapshotter $snapshotter image.tar >/dev/null
snapshots view whole $chain >/dev/null
attach whole
case $snapshotter:$(stat -f -c %T mnt) in overlayfs:overlayfs | acetate:fuse*) ;; *) exit 1 ;; esac
python3 "$TOOLS/dump.py" "$dir/mnt" "$(date +%s --date=2021-01-01)"
umount mnt
snapshots rm whole

say run
run $image first sh -c 'exec >/mnt/first; ls /data /data/sub /usr/replaced; cat /data/file2; rm -r /data/file1 /usr/replaced
    mkdir /usr/replaced; mv /data/sub/new /data/moved; echo more >>/data/file3; chmod 700 /data; ln /data/moved /data/again
    stat -c "%a %u:%g %h" /data /data/file3 /data/again'
cat out/first
say diff
snapshots diff first >diff.tar
# Programs of the engine leave files of their own in these.
tar -tvf diff.tar | awk '{ print $1, $2, $3, $6, $7, $8, $9 }' | grep -Ev ' (etc|run|dev|proc|sys|tmp|mnt)(/|$)' | sort
tar -xOf diff.tar data/file3 data/moved

say keep
snapshots commit kept first
ctr containers rm first
snapshots prepare again kept
attach again
(cd mnt; find data usr | sort)
echo changed >mnt/data/file3; rm mnt/data/again
umount mnt
attach again
cat mnt/data/file3; ls mnt/data
umount mnt

say in parallel
for n in 1 2 3; do
    run --rm $image p$n sh -c "exec >/mnt/p$n; echo $n >/data/file2; rm -r /data/sub; cat /data/file2; ls /data" &
    running[n]=$!
done
wait "${running[@]}"
cat out/p1 out/p2 out/p3

say nothing is left
snapshots rm again
snapshots rm kept
ctr images rm --sync $image >/dev/null
snapshots ls | wc -l
kill $daemon $helper
wait
if grep -E ' - (overlay|fuse)' /proc/self/mountinfo | grep "$dir" >&2; then exit 1; fi
for i in $(seq 100); do pgrep -x acetate >/dev/null || break; sleep 0.1; done
! pgrep -ax acetate >&2
