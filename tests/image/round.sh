# An image goes round: made by umoci (and, for root, skopeo and buildah), imported, changed under crun and runc,
# committed, imported elsewhere and unpacked. Trees are left in files called live, again, umoci, …
#
# round.sh WHO, where WHO is root, alone (a user of one id) or ranges (a user with ids of /etc/subuid); in an empty
# directory, with ACETATE (the program) and DUMP (the script that prints a tree).
set -eu
who=$1
user=54321
PATH=$PATH:/usr/sbin:/sbin
mount --make-rprivate /
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs none /mnt
mknod -m 666 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
cp "$ACETATE" acetate
cp "$DUMP" dump.py
chmod 755 .

dump() { python3 "$top/dump.py" "$1" inf; }
top=$PWD

# fusermount3 wants to know the user's name.
if [ "$who" != root ]; then
    for file in passwd group; do
        cp /etc/$file /mnt/$file
        echo "acetate-test:x:$user:$user::/:/bin/sh" >>/mnt/$file
        mount --bind /mnt/$file /etc/$file
    done
    : >/mnt/ids
    : >/mnt/fuse.conf
    if [ "$who" = ranges ]; then
        echo "acetate-test:200000:65536" >/mnt/ids
        echo user_allow_other >/mnt/fuse.conf
    fi
    mount --bind /mnt/fuse.conf /etc/fuse.conf
    for file in subuid subgid; do
        touch /etc/$file
        mount --bind /mnt/ids /etc/$file
    done
fi

umoci init --layout images
umoci new --image images:base
umoci unpack --image images:base first
(
    cd first/rootfs
    mkdir -p bin etc proc sys dev tmp work/old/sub work/keep work/replaced work/empty
    cp /bin/busybox bin/busybox
    for name in sh id rm mv ln mkdir touch chmod chown mknod; do ln -s busybox bin/$name; done
    echo root:x:0:0:root:/root:/bin/sh >etc/passwd
    echo one >work/old/one
    echo two >work/old/sub/two
    ln work/old/one work/old/one-again
    echo kept >work/keep/kept
    echo below >work/replaced/below
    echo suid >work/suid
    chmod 4755 work/suid
    chown 70:71 work/keep work/keep/kept
    ln -s /nowhere/at/all work/dangling
    mkfifo work/fifo
    setfattr -n user.note -v hello work/keep/kept
    setfattr -n user.note -v directory work/keep
    truncate -s 3M work/sparse
    printf x | dd of=work/sparse bs=1 seek=2000000 conv=notrunc status=none
    chmod 1777 tmp
    touch -d '2001-02-03 04:05:06' work/keep/kept
    if [ "$who" = root ]; then
        cp /bin/true work/capable
        setcap cap_net_raw+ep work/capable
        mknod work/device c 1 3
        chown -h 5:6 work/dangling
    fi
)
umoci repack --image images:base first
umoci unpack --image images:base second
(
    cd second/rootfs
    rm -r work/old/sub/two work/replaced
    mkdir work/replaced
    echo new >work/replaced/new
)
umoci repack --image images:base second
umoci config --image images:base --config.env PATH=/bin --config.cmd /bin/sh

if [ "$who" = root ]; then
    # zstd by skopeo, and one more layer by buildah.
    skopeo copy -q --dest-compress-format zstd oci:images:base oci:copied:base
    engine="--root $top/engine --runroot $top/engine-run --storage-driver vfs"
    # shellcheck disable=SC2086
    container=$(buildah $engine from -q oci:copied:base)
    echo buildah >added
    # shellcheck disable=SC2086
    buildah $engine copy -q "$container" added /work/added >/dev/null
    # shellcheck disable=SC2086
    buildah $engine commit -q "$container" oci:images:base >/dev/null
fi

cat >steps <<'E2'
set -eu
export HOME=$PWD XDG_RUNTIME_DIR=$PWD/run
mkdir run
acetate=../acetate
change() { # RUNTIME SCRIPT
    python3 - "$2" <<'E3'
import json, sys
config = json.load(open("box/config.json"))
config["process"]["args"] = ["/bin/sh", "-ec", sys.argv[1]]
json.dump(config, open("box/config.json", "w"))
E3
    "$1" --root "run/$1" run --bundle box "acetate-round-$1-$$"
}
# Files that are written to get a time of their own at the end: where the kernel gathers the writes of an ordinary user,
# the time it shows until the mount ends can be some microseconds from that in the upper.
$acetate image --store one import ../images:base
$acetate image --store one bundle images:base box
change crun 'id -u; mv /work/old /work/new; rm /work/keep/kept; echo mine >/work/keep/mine; ln /work/suid /work/suid-2
    chmod 2750 /work/keep; ln -s ../x /work/link'
[ "$WHO" = alone ] || change crun 'chown 3:4 /work/empty /work/keep/mine'
change runc 'id -u; rm -r /work/replaced; mkdir /work/replaced; echo z >/work/replaced/z; mkdir -p /work/deep/er
    echo d >/work/deep/er/f; mknod /work/pipe p; chmod 6755 /work/suid; rm /work/new/one; mv /work/new/one-again /work/one
    echo hello >/work/sparse; touch -d 2001-02-03 /work/deep/er
    touch -d 2001-02-04 /work/sparse /work/replaced/z /work/deep/er/f /work/keep/mine'
[ "$WHO" != root ] || change runc 'rm /work/device; echo now a file >/work/device'
if [ "$WHO" = ranges ]; then
    # Not even he may read what belongs to his other ids; root does it for him.
    touch wanted
    while [ ! -e ../live ]; do sleep 0.05; done
else
    python3 ../dump.py box/rootfs inf >live
fi
$acetate commit box/rootfs --oci ../images:new --base base
$acetate umount box/rootfs
$acetate image --store two import ../images:new
mkdir mnt
$acetate image --store two mount images:new mnt
python3 ../dump.py mnt inf >again
$acetate umount mnt
rootless=
[ "$WHO" = root ] || rootless=--rootless
umoci unpack $rootless --image ../images:new unpacked
[ "$WHO" = root ] || python3 ../dump.py unpacked/rootfs inf >umoci
E2

mkdir home
export WHO=$who
if [ "$who" = root ]; then
    (cd home && bash ../steps)
else
    chown -R $user:$user home images
    cd home
    setpriv --reuid $user --regid $user --clear-groups bash ../steps &
    steps=$!
    cd ..
    if [ "$who" = ranges ]; then
        while [ ! -e home/wanted ]; do
            kill -0 $steps
            sleep 0.05
        done
        dump home/box/rootfs >dumped
        mv dumped live
    fi
    wait $steps
fi
[ ! -e home/live ] || mv home/live live

# What root gets, who can give every file its owner.
mkdir mnt
./acetate image --store store import images:new
./acetate image --store store mount images:new mnt
dump mnt >imported
./acetate umount mnt
umoci unpack --image images:new unpacked
dump unpacked/rootfs >unpacked.tree
if [ "$who" = root ]; then
    skopeo copy -q oci:images:new docker-archive:archive.tar:example.org/round:new
    # shellcheck disable=SC2086
    podman $engine load -q -i archive.tar
    # shellcheck disable=SC2086
    dump "$(podman $engine image mount example.org/round:new)" >podman
    # shellcheck disable=SC2086
    podman $engine image umount example.org/round:new >/dev/null
fi
