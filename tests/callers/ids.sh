# What callers see and may do where ids are shifted by 100000; every line printed is compared with kernel overlayfs over
# idmapped mounts of the same layers. $1: how the layers are mounted, in the current directory; $2: acetate.
set -euo pipefail
umask 022
mkdir -p p/a p/b p/u p/w i m
(
    cd p/a
    for f in plain mine foreign listed capable private; do echo $f >$f; done
    chown 1000:1000 mine; chown 50000:50000 foreign; chown 5:5 private; chmod 600 private
    mkdir -m 2777 shared; chown 0:7 shared; echo below >shared/below; chown 5:7 shared/below
    setfacl -m u:5:rw,g:9:r listed; setcap cap_net_raw+ep capable
    mkdir inherited gone sub; chown 7:7 inherited; setfacl -d -m u:5:rwx,g:8:rx inherited; echo x >sub/x; chown 50000 sub/x
    cd ../b
    echo b >from-b; chown 1:2 from-b; mkdir sub; echo y >sub/y
    find .. -exec touch -h -d 2020-02-02 {} +
)
# Root is somebody too, 60100, so that it can write at all.
triples="0 100000 10000 60100 0 1"
options="transport=dev,upperdir=p/u,workdir=p/w,uidmapping=${triples// /:},gidmapping=${triples// /:}"
case $1 in
kernel) python3 "$IDMOUNT" p i $triples; mount -t overlay o -o lowerdir=i/a:i/b,upperdir=i/u,workdir=i/w m ;;
plain) "$2" -o "$options,lowerdir=p/a:p/b" m ;;
# One layer is shifted by its mount, which is not done again.
mixed) python3 "$IDMOUNT" p i $triples; "$2" -o "$options,lowerdir=i/a:p/b" m ;;
esac
set +e
upper=$PWD/p/u
cd m
since=$(date +%s --date=2021-01-01)
say() { echo "== $*"; }
# Marks that are a file system's own, and who owns a whiteout, say nothing of ids.
dump() { python3 "$TOOLS/dump.py" "$1" "$since" | sed -E 's/ trusted\.overlay\.[a-z]+=[0-9a-f]*//g; s/ 0o20000 [0-9]+:[0-9]+ / whiteout /'; }
try() { "$@" 2>&1 || echo "status $?"; }
as() { local id=$1; shift; try setpriv --reuid "$id" --regid "$id" --clear-groups "$@"; }
acl() { try getfacl -cnp "$1"; }

say what is there
dump .
acl listed; acl inherited; try getcap -n capable

say nobody
as 5 touch shared/n; as 5 mkdir shared/n; as 5 mkfifo shared/n; as 5 ln -s x shared/n; as 5 cp plain shared/n; as 5 cat plain private
try chmod 600 foreign; try touch foreign; try sh -c 'echo x >>foreign'; try cat foreign; try truncate -s 0 foreign
try chown 100001 foreign; try setfattr -n user.x -v y foreign; try ln foreign hard; try mv foreign elsewhere; try mv elsewhere foreign
try chown 5 plain; try chgrp 5 plain; try chown 65534 plain; try chown 99999:110000 plain; try chown 109999:109999 plain
try setfacl -m u:5:r plain; try setfacl -m g:5:r plain; try setcap -n 5 cap_chown+ep plain
stat -c '%n %a %u:%g' plain foreign elsewhere 2>&1

say somebody
as 100005 touch new; as 100005 touch shared/new; as 100005 mkdir shared/dir; as 100005 mkfifo shared/pipe
as 100005 ln -s x shared/link; as 100005 ln shared/new shared/hard; as 100005 mv shared/below shared/moved
as 100005 sh -c 'echo more >>listed'; as 100006 cat listed; as 100005 cat private; as 101000 sh -c 'echo more >>mine; chmod 640 mine'
as 101000 chown 101001 mine; as 101000 rm shared/moved; as 5 touch shared/five; as 5 cat listed; as 100007 touch inherited/new
as 100000 chmod 4755 plain; as 100000 rm foreign; as 100000 mkdir made; as 100000 rmdir gone
acl inherited/new; acl listed

say root
try chown 100003:100004 plain; try chmod 6755 plain; try chown 100007:100007 shared; try setfacl -m u:100007:rw,g:100008:r plain
acl plain; try setfacl -b listed; acl listed; try setfattr -n user.comment -v yes capable; try getcap -n capable
try setcap -n 100000 cap_chown+ep mine; try getcap -n mine; try setcap -n 100002 cap_chown+ep private; try getcap -n private
try rm -r sub; try rm foreign; try mv listed moved-listed

say afterwards
dump .
say in the upper
dump "$upper"
cd ..
umount m
! mountpoint -q i || umount i
