# A store that fuse-overlayfs mounted so far is mounted by acetate from then on. The images are compared;
# containers do not outlast it, since what fuse-overlayfs writes in uppers are marks of its own.
since=$(date +%s --date=2021-01-01)
mkdir -p root/{bin,etc,data/sub/deep,usr/{old,replaced},opt,tmp,dev,proc,sys}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln mkdir stat touch chown chmod id echo mkfifo; do ln -s busybox root/bin/$applet; done
printf 'root:x:0:0::/:/bin/sh\n' >root/etc/passwd
for n in 1 2 3 4 5 6; do echo $n >root/data/file$n; echo $n >root/data/sub/file$n; echo $n >root/usr/old/file$n; echo $n >root/usr/replaced/file$n; done
find root -exec touch -h -d 2020-02-02T02:02:02.123456789Z {} +
tar -C root --owner=0 --group=0 -cf base.tar .
podman import -q base.tar base:1 >/dev/null
printf 'FROM base:1\nRUN rm -r /data/sub && mv /data/file1 /data/moved && chown 1000:1000 /data/file2\nRUN rm -r /usr/replaced && mkdir /usr/replaced && echo new >/usr/replaced/new && ln /data/file2 /opt/hard\n' >Containerfile
podman build -q --network none -t built:1 . >/dev/null
podman run --name one built:1 sh -c 'rm /data/file3; rm -r /usr/old; mkdir /usr/old; echo x >/usr/old/x; mv /data/file4 /opt; chmod 4711 /data/file5; echo more >>/data/file6
    mkdir -p /data/sub/new; mkfifo /opt/pipe; ln -s ../data /opt/link; ln /data/moved /opt/again; chown 5:7 /opt/file4'

podman commit -q one kept:1 >/dev/null
podman rm one >/dev/null

look() {
    for image in built:1 kept:1; do
        echo "== $image"
        if [ "$(id -u)" = 0 ]; then
            python3 "$TOOLS/dump.py" "$(podman image mount $image)" "$since"
            podman image umount $image >/dev/null
        else
            podman unshare bash -euo pipefail -c 'python3 "$TOOLS/dump.py" "$(podman image mount $1)" "$2"; podman image umount $1 >/dev/null' bash $image "$since"
        fi
    done
}
look
sed -i "s#^mount_program.*#mount_program = \"$TOOLS/acetate\"#" "$(podman info --format '{{.Store.ConfigFile}}')"
echo switched
look
podman info --format '{{.Store.GraphOptions}}' >info
grep -q "$TOOLS/acetate" info
podman run --name two kept:1 sh -c 'test -e /opt/file4 -a ! -e /data/file3 -a ! -e /usr/old/file1; rm -r /usr/replaced; mkdir /usr/replaced'
podman diff two >diff
grep -q '^D /usr/replaced/new$' diff
