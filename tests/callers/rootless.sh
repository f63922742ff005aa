# An ordinary user's containers; every line printed is compared with the engine's own use of kernel overlayfs.
say() { echo "== $*"; }
mkdir -p root/{bin,etc,data/sub,opt,tmp}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln mkdir stat touch chown chmod id echo mkfifo sort wc; do ln -s busybox root/bin/$applet; done
printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >root/etc/passwd
for n in 1 2 3; do echo $n >root/data/file$n; echo $n >root/data/sub/file$n; done
tar -C root --owner=0 --group=0 -cf base.tar .
podman import -q base.tar base:1 >/dev/null
printf 'FROM base:1\nRUN rm -r /data/sub && mv /data/file1 /data/moved && chown 1000:1000 /data/file2\nRUN rm -r /opt && mkdir /opt && mkfifo /opt/pipe && ln /data/file2 /opt/hard\n' >Containerfile
podman build -q --network none -t built:1 . >/dev/null
say run
podman run --name one built:1 sh -c 'ls -1 /data /opt; stat -c "%u:%g %n" /data/file2 /opt/hard; rm /data/file3; mkdir /data/sub; echo x >/data/sub/x; cat /data/*/x'
podman diff one | grep -Ev '^[AC] /(etc|run|dev|proc|sys|tmp)(/|$)' | sort
podman commit -q one committed:1 >/dev/null
podman run --rm committed:1 ls -1 /data /data/sub
for mode in keep-id nomap auto:size=3000; do
    say $mode
    podman run --rm --userns=$mode built:1 sh -c 'id -u >/dev/null; ls -1 /data /opt; cat /data/moved; stat -c "%a" /data/moved'
done
say keep-id as root of the container
podman run --rm --userns=keep-id --user 0 built:1 sh -c 'touch /data/new && chown 5:6 /data/new && stat -c "%u:%g" /data/new /data/moved /data/file2; rm -r /opt; ls /'
say overlaid
mkdir outside; echo outside >outside/file
podman run --rm -v "$PWD/outside:/mnt:O" built:1 sh -c 'echo changed >/mnt/file; cat /mnt/file; touch /mnt/new; ls /mnt'
ls outside; cat outside/file
