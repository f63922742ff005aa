# buildah without podman, by whoever; every line printed is compared with its own use of kernel overlayfs.
say() { echo "== $*"; }
since=$(date +%s --date=2021-01-01)
# The tree of a working container. An ordinary user sees it in a namespace of his own only.
dump() {
    if [ "$(id -u)" = 0 ]; then python3 "$TOOLS/dump.py" "$(buildah mount "$1")" "$since"
    else buildah unshare --mount "M=$1" sh -c 'exec python3 "$TOOLS/dump.py" "$M" "$1"' sh "$since"; fi
}
mkdir -p root/{bin,etc,data/sub/deep,usr/share/{old,replaced},opt,proc,sys,dev,tmp}
cp /bin/busybox root/bin/
for applet in sh ls cat rm mv ln mkdir stat touch chown chmod id echo mkfifo sort; do ln -s busybox root/bin/$applet; done
printf 'root:x:0:0::/:/bin/sh\n' >root/etc/passwd
for n in 1 2 3 4; do echo $n >root/data/file$n; echo $n >root/data/sub/file$n; echo $n >root/usr/share/old/file$n; done
echo gone >root/usr/share/replaced/gone
find root -exec touch -h -d 2020-02-02T02:02:02Z {} +

say from scratch
buildah from --name empty scratch
buildah copy -q empty root / >/dev/null
buildah config --cmd '["/bin/sh"]' --env PATH=/bin empty
buildah commit -q --rm empty base:1 >/dev/null

say from an image
buildah from --name work base:1
buildah run --network none work -- sh -c 'rm -r /data/sub /data/file1; mkdir /data/sub; echo new >/data/sub/new; mv /data/file2 /data/moved
    rm -r /usr/share/replaced; mkdir /usr/share/replaced; echo hard >/data/one; ln /data/one /data/hard; chmod 4755 /data/file4; ls /data /data/sub'
buildah run --network none work -- sh -c 'chown 5:7 /data/moved; mkfifo /opt/pipe; mv /usr/share /usr/lib; chmod 2770 /opt; stat -c "%a %u:%g %h %n" /data/* /opt'
dump work
buildah commit -q --rm work built:1 >/dev/null

say from a file
printf 'FROM built:1\nRUN rm -r /opt && mkdir /opt && echo x >/opt/file\nRUN mv /data/moved /data/again && rm -r /usr/lib/old\nRUN echo last >>/data/again\n' >Containerfile
buildah bud -q --network none --layers -t again:1 . >/dev/null
for image in built:1 again:1; do
    say $image
    buildah from --name look $image
    dump look
    buildah rm look >/dev/null
done
buildah rmi -a -f >/dev/null
