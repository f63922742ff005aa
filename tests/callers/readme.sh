# Runs the blocks of one section of the README as they stand. $1: an empty directory, $2: the title of the section, $3:
# acetate; the blocks are $1.1, $1.2, … A block that begins with "# /a/file" is written to that file.
# Meant for: unshare --mount --pid --fork --kill-child --mount-proc bash readme.sh …
set -euo pipefail
dir=$1 section=$2 program=$3
mount --make-rprivate /
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
# A root of our own over that of the machine.
mount -t tmpfs readme "$dir"
mkdir "$dir"/{up,work,root,blocks}
mount -t overlay root -o lowerdir=/,upperdir="$dir/up",workdir="$dir/work" "$dir/root"
cd "$dir/root"
mount --rbind /proc proc; mount --rbind /sys sys; mount --rbind /dev dev
for place in run tmp var/tmp var/lib usr/local/bin etc/containers; do mkdir -p $place; mount -t tmpfs readme $place; done
cp "$program" usr/local/bin/acetate
cp "$TOOLS/snapshotter.py" "$dir".[0-9]* tmp
mkdir old
pivot_root . old
umount -l /old
export HOME=/tmp TMPDIR=/var/tmp PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset XDG_RUNTIME_DIR XDG_DATA_HOME XDG_CONFIG_HOME CONTAINERS_CONF
mkdir -p /run/lock /var/lib/containers /tmp/here
rm -f /sbin/mount.acetate /usr/bin/fuse-overlayfs
cd /tmp/here

busybox_root() {
    mkdir -p "$1"/{bin,etc,dev,proc,sys,tmp}
    cp /bin/busybox "$1/bin"
    for applet in sh cat rm echo ls id; do ln -s busybox "$1/bin/$applet"; done
    echo 'root:x:0:0::/:/bin/sh' >"$1/etc/passwd"; echo welcome >"$1/etc/motd"
}
# Waits until a command succeeds.
await() { for i in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; "$@"; }

# What the section takes for granted.
case $section in
"podman and buildah")
    busybox_root root; tar -C root -cf base.tar .
    printf '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\nnetns = "none"\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nruntime = "crun"\n' >/etc/containers/containers.conf
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
    : >/etc/containers/registries.conf
    ;;
"Docker Engine")
    busybox_root root; tar -C root -cf base.tar .
    ;;
containerd)
    busybox_root root; tar -C root -cf layer.tar .
    echo '{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:'$(sha256sum <layer.tar | cut -d' ' -f1)'"]}}' >config.json
    echo '[{"Config":"config.json","RepoTags":["base:1"],"Layers":["layer.tar"]}]' >manifest.json
    tar -cf image.tar manifest.json config.json layer.tar
    ;;
"mount(8) and fstab")
    mkdir -p /layers/{app,base} /up /work; echo app >/layers/app/file; echo base >/layers/base/other
    ;;
"Trying things out: \`run\`")
    mkdir -p src app/bin base
    printf '#!/bin/sh\necho made >config.status\n' >configure; printf '#!/bin/sh\nmkdir src/done; echo x >src/done/file\n' >refactor
    printf 'all:\n\techo built >src/built\n' >Makefile; printf '#!/bin/sh\necho tested >app/result\n' >app/bin/test
    # There is no network to install from.
    printf '#!/bin/sh\necho "$@" >/etc/hello; echo "$@" >/usr/hello\n' >/usr/local/bin/apt-get
    chmod +x configure refactor app/bin/test /usr/local/bin/apt-get
    ;;
Images)
    busybox_root root; umoci init --layout layout; umoci new --image layout:1.0
    umoci insert --image layout:1.0 root / >/dev/null
    mkdir changes
    ;;
"Keeping the changes: \`commit\`")
    busybox_root root; umoci init --layout images; umoci new --image images:old
    umoci insert --image images:old root / >/dev/null
    mkdir app base changes mnt up; echo a >app/a; echo b >base/b; echo c >changes/c
    acetate mount --lower app --lower base --upper up mnt
    rm mnt/b; echo new >mnt/new
    ;;
*) echo "nothing is known of the section $section" >&2; exit 1 ;;
esac

for block in $(ls /tmp/*.[0-9]* | sort -t. -k2 -n); do
    file=$(sed -n '1s,^# \(/\S*\)$,\1,p' "$block")
    if [ -z "$file" ]; then
        echo "== $(head -n 1 "$block")"
        bash -euo pipefail "$block" 2>&1 </dev/null
        continue
    fi
    mkdir -p "${file%/*}"
    tail -n +2 "$block" >"$file"
    # What a service manager does when it is told to start the service again.
    case $file in
    */daemon.json)
        dockerd --iptables=false --bridge=none --ip-masq=false >/tmp/log 2>&1 &
        await docker info
        ;;
    */config.toml)
        # The snapshotter itself is packaged nowhere; this one does the same.
        /usr/bin/python3 /tmp/snapshotter.py /var/lib/snapshots /run/containerd-fuse-overlayfs.sock fuse-overlayfs &
        # containerd is not patient with it.
        await test -S /run/containerd-fuse-overlayfs.sock
        containerd >/tmp/log 2>&1 &
        await ctr snapshots --snapshotter fuse-overlayfs ls
        ;;
    esac
done

# What must be so afterwards.
echo "== afterwards"
case $section in
"podman and buildah") podman info --format '{{.Store.GraphOptions}}' | grep -o '/usr/local/bin/acetate' | sort -u ;;
"Docker Engine") docker info --format '{{.Driver}}' ;;
"mount(8) and fstab") cat /mnt/file /mnt/other; stat -f -c %T /mnt ;;
"Trying things out: \`run\`") ls src; cat src/done/file src/built; [ ! -e /etc/hello ] && [ ! -e app/result ] && [ ! -e config.status ] ;;
"Keeping the changes: \`commit\`") tar -tzf layer.tar.gz | sort; tar -tf layer.tar; umoci ls --layout images | sort ;;
esac
