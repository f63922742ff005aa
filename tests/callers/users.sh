# Containers with ids of their own; every line printed is compared with the engine's own use of kernel overlayfs.
say() { echo "== $*"; }
mkdir -p root/{bin,etc,data/sub/deep,usr/share/{old,replaced},usr/lib,opt,tmp}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln cp mkdir rmdir stat touch chmod chown sleep find id true echo mkfifo seq sort tar wc; do
    ln -s busybox root/bin/$applet
done
printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >root/etc/passwd
for n in 1 2 3 4 5; do echo "$n" >root/data/file$n; echo "$n" >root/data/sub/file$n; echo "$n" >root/usr/share/old/file$n; done
echo keep >root/usr/share/replaced/gone; mkdir root/usr/share/replaced/gone-too
cp root/bin/busybox root/usr/lib/capable; setcap cap_net_raw+ep root/usr/lib/capable
cp root/data/file1 root/usr/lib/setuid; chmod 4755 root/usr/lib/setuid
ln root/data/file2 root/data/link2
chown 1000:1000 root/data/file3; chmod 2775 root/opt
setfattr -n user.comment -v kept root/data/file4
find root -exec touch -h -d 2020-02-02T02:02:02.123456789Z {} +
tar --xattrs --xattrs-include='*' -C root -cf base.tar .
podman import -q base.tar built:1 >/dev/null

say user namespaces
podman run --rm --userns=auto:size=2000 built:1 sh -c 'id -u; stat -c "%u:%g %a %n" /data/* /usr/lib/setuid /opt; cat /data/file4;
    echo new >/data/new; mkdir /data/dir; chown 1000:1000 /data/new; stat -c "%u:%g" /data/new /data/dir; rm /data/file1'
podman run --rm --uidmap 0:100000:5000 --gidmap 0:200000:5000 built:1 sh -c 'stat -c "%u:%g" /data/file3 /data/file2;
    touch /data/mine; chown 1000:7 /data/mine; stat -c "%u:%g" /data/mine'

