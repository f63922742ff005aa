# Docker Engine in directory $1 with storage driver $3; $2 is what it finds as fuse-overlayfs. What is printed is compared.
# Meant for: unshare --mount --pid --fork --kill-child --mount-proc bash docker.sh …
set -euo pipefail
dir=$1 program=$2 driver=$3
mount --make-rprivate /
mount -t tmpfs engine "$dir"
mount -t tmpfs run /run
mkdir -p "$dir"/{bin,data,exec,run,tmp,out}
ln -s "$program" "$dir/bin/fuse-overlayfs"
export PATH=$dir/bin:$PATH TMPDIR=$dir/tmp HOME=$dir DOCKER_HOST=unix://$dir/run/docker.sock DOCKER_BUILDKIT=0
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
cd "$dir"
dockerd --storage-driver=$driver --iptables=false --bridge=none --ip-masq=false --data-root "$dir/data" --exec-root "$dir/exec" -H "$DOCKER_HOST" --pidfile "$dir/run/pid" >"$dir/log" 2>&1 &
for i in $(seq 600); do docker info >/dev/null 2>&1 && break; sleep 0.2; done
# Not through a pipe to `grep -q`: docker would die of it when grep ends first.
[ "$(docker info --format '{{.Driver}}' 2>&1)" = "$driver" ] || { tail -n 20 "$dir/log" >&2; exit 1; }
mkdir -p root/{bin,etc,data/sub,usr/replaced,tmp,proc,sys,dev}; cp /bin/busybox root/bin
for a in sh ls cat rm mkdir echo sort mv ln stat; do ln -s busybox root/bin/$a; done
echo 'root:x:0:0::/:/bin/sh' >root/etc/passwd
for n in 1 2 3; do echo $n >root/data/file$n; echo $n >root/data/sub/file$n; echo $n >root/usr/replaced/file$n; done
tar -C root -c . | docker import - base:1 >/dev/null
printf 'FROM base:1\nRUN rm -r /data/sub /data/file1\nRUN rm -r /usr/replaced && mkdir /usr/replaced && echo new >/usr/replaced/new\nRUN mv /data/file2 /data/moved\n' >Dockerfile
mkdir context; cp Dockerfile context
docker build -q --network none -t built:1 context >build.log 2>&1 || { cat build.log >&2; exit 1; }
# What a container prints goes to a file: the engine can lose the end of it when there is much else to do.
docker run --name one --network none -v "$dir/out:/out" built:1 sh -c 'exec >/out/one; ls /data /usr/replaced; cat /data/moved; rm /data/file3; mkdir /data/new; echo x >/data/new/x'
cat out/one
docker diff one | sort
docker commit one committed:1 >/dev/null
docker run --rm --network none -v "$dir/out:/out" committed:1 sh -c 'exec >/out/two; ls -R /data /usr/replaced; stat -c %a /data/new'
cat out/two
docker rm -f one >/dev/null
kill "$(cat run/pid)"
wait
! grep "$dir/data.*merged" /proc/self/mountinfo
