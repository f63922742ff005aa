# A store whose layers keep owner, mode and type in attributes; every line printed is compared with one that does not.
# What the engine itself cannot unpack into such a store is left out of images: pipes, set-id and sticky bits, the mode
# of the root.
say() { echo "== $*"; }
since=$(date +%s --date=2021-01-01)
mkdir -p root/{bin,etc,data/sub,usr/replaced,opt,tmp,dev,proc,sys}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln mkdir stat touch chown chmod id echo mkfifo sort; do ln -s busybox root/bin/$applet; done
printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >root/etc/passwd
for n in 1 2 3 4; do echo $n >root/data/file$n; echo $n >root/data/sub/file$n; echo $n >root/usr/replaced/file$n; done
chown 1000:7 root/data/file1; chmod 710 root/data/file2; chmod 600 root/data/file3; chmod 770 root/opt
chown 1000:1000 root/opt; echo old >root/opt/old; setfattr -n user.comment -v kept root/data/file4; ln root/data/file1 root/data/hard
find root -exec touch -h -d 2020-02-02T02:02:02.123456789Z {} +
tar --xattrs --xattrs-include='*' -C root -cf base.tar .
podman import -q base.tar base:1 >/dev/null
dump() { python3 "$TOOLS/dump.py" "$(podman image mount "$1")" "$since" | tail -n +2; podman image umount "$1" >/dev/null; }
say import
dump base:1
say build
printf 'FROM base:1\nRUN rm -r /data/sub && mv /data/file3 /data/moved && chmod 711 /data/moved && chown 3:4 /data/moved\nRUN rm -r /usr/replaced && mkdir -m 700 /usr/replaced && echo x >/usr/replaced/new\nUSER user\nRUN cat /data/file1 && ! cat /data/file2 && touch /opt/mine\n' >Containerfile
podman build -q --network none -t built:1 . >/dev/null
dump built:1
say run
podman run --name one built:1 sh -c 'id -u; ls -1 /data; stat -c "%a %u:%g %n" /data/* /opt/* /usr/replaced; cat /data/moved 2>&1
    mkfifo -m 611 /opt/pipe; chmod 2711 /opt/mine; mkdir -m 1733 /opt/dir; stat -c "%F %a %u:%g" /opt/pipe /opt/mine /opt/dir; rmdir /opt/dir; chmod 644 /opt/mine; rm /opt/pipe; rm /opt/old; echo x >/opt/mine'
podman diff one | grep -Ev '^[AC] /(etc|run|dev|proc|sys|tmp)(/|$)' | sort
podman commit -q one committed:1 >/dev/null
dump committed:1
