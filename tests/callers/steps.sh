# What people do with podman; every line printed is compared between storage drivers.
say() { echo "== $*"; }
dump() { python3 "$TOOLS/dump.py" "$1" "$since"; }
# The tree of an image, through the driver.
image() { say "image $1"; dump "$(podman image mount "$1")"; podman image umount "$1" >/dev/null; }
# What a container changed, without what engines put into every container.
changes() { podman diff "$1" | grep -Ev '^[AC] /(etc|run|dev|proc|sys|tmp)(/|$)' | sort; }

mkdir -p root/{bin,etc,data/sub/deep,usr/share/{old,replaced},usr/lib,opt,tmp}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln cp mkdir rmdir stat touch chmod chown sleep find id true echo mkfifo seq sort wc; do
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
since=$(date +%s.%N --date=2021-01-01)
tar --xattrs --xattrs-include='*' -C root -cf base.tar .

say import
podman import -q base.tar base:1 >/dev/null
image base:1

say build
# Programs of this machine with what they need, for a root in which packages are installed.
for program in /usr/bin/dpkg{,-deb,-split} /bin/tar /sbin/setcap; do
    for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
        mkdir -p "tools${file%/*}"
        cp -L "$file" "tools$file"
    done
done
mkdir -p tools/var/lib/dpkg/{info,updates,triggers} tools/usr/sbin
touch tools/var/lib/dpkg/{status,available}
for program in diff ldconfig start-stop-daemon; do ln -s /bin/true tools/usr/sbin/$program; done
# package VERSION COMMANDS: tool_VERSION.deb, of what the commands make.
package() {
    mkdir -p p/DEBIAN p/usr/lib/tool p/etc
    printf 'Package: tool\nVersion: %s\nArchitecture: all\nMaintainer: nobody\nDescription: a tool\n' "$1" >p/DEBIAN/control
    echo /etc/tool.conf >p/DEBIAN/conffiles
    printf '#!/bin/sh\n/sbin/setcap cap_net_raw+ep /usr/lib/tool/capable\n' >p/DEBIAN/postinst
    chmod 755 p/DEBIAN/postinst
    for n in a b c capable; do seq 1 2000 >p/usr/lib/tool/$n; done
    echo "version $1" >p/etc/tool.conf
    (cd p && eval "$2")
    find p -exec touch -h -d @1500000000 {} +
    dpkg-deb -Zgzip --root-owner-group -b p tool_$1.deb >/dev/null
    rm -r p
}
package 1 'mkdir usr/lib/tool/old; echo 1 >usr/lib/tool/old/file; cp usr/lib/tool/a usr/lib/tool/d; ln usr/lib/tool/d usr/lib/tool/d2'
package 2 'echo 2 >usr/lib/tool/new; chmod 4755 usr/lib/tool/a; cp usr/lib/tool/b usr/lib/tool/d; ln usr/lib/tool/d usr/lib/tool/d3'
cat >Containerfile <<X
FROM base:1
COPY tools /
COPY tool_1.deb tool_2.deb /tmp/
RUN /usr/bin/dpkg --log=/dev/null -i /tmp/tool_1.deb
RUN /usr/bin/dpkg --log=/dev/null -i /tmp/tool_2.deb && rm /tmp/*.deb
RUN rm -r /data/sub && rm /data/file5
RUN mv /usr/share/old /usr/share/new && mv /data/file4 /data/moved
RUN rm -r /usr/share/replaced && mkdir /usr/share/replaced && echo new >/usr/share/replaced/new
RUN ln /data/file1 /data/hard && mv /usr/lib/capable /usr/lib/able
RUN chown 1000:1000 /data/hard && mkdir -m 2755 /opt/group && mkfifo /opt/pipe && ln -s ../data /opt/link
RUN /sbin/setcap cap_chown+ep /usr/lib/tool/new && chmod 6755 /usr/lib/tool/c && rm -r /usr/bin /usr/sbin && mv /usr/share /usr/lib/share
X
podman build -q --network none -t built:1 . >build.log 2>&1 || { cat build.log >&2; exit 1; }
image built:1

say run and diff
podman run --name one built:1 sh -c 'cat /data/hard; rm /data/file2; mkdir -p /usr/lib/share/new/sub; echo x >>/usr/lib/tool/b;
    mv /usr/lib/tool/c /usr/lib/tool/e; rm -r /opt; mkdir /opt; ls -1 /data /opt /usr/lib/tool; stat -c "%a %h" /usr/lib/setuid'
changes one
podman commit -q one committed:1 >/dev/null
image committed:1
podman rm one >/dev/null

say overlaid directories
mkdir -p outside/dir; echo outside >outside/file; echo outside >outside/dir/file
podman run --rm -v "$PWD/outside:/mnt:O" built:1 sh -c 'cat /mnt/file; rm -r /mnt/dir; echo changed >/mnt/file; ls /mnt; cat /mnt/file'
find outside | sort; cat outside/file
podman run --rm --rootfs "$PWD/root:O" sh -c 'cat /data/file1; rm -r /data; echo x >/new; ls /'
ls root; cat root/data/file1

say in parallel
for n in 1 2 3 4; do
    podman run --rm built:1 sh -c "for i in \$(seq 1 50); do echo $n >/data/p\$i; done; rm -r /usr/lib/tool; cat /data/p* | sort | uniq -c 2>/dev/null || cat /data/p50" >out$n &
done
wait
cat out1 out2 out3 out4
say nothing is left
podman rmi -a -f >/dev/null
grep -c '/merged ' /proc/self/mountinfo || true
