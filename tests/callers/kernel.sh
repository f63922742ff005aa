#!/bin/bash
# Kernel overlayfs as the mount program of an engine: what acetate is compared with. Engines unpack images for such
# programs with deletions as files, which the kernel does not know; they are made into its own marks first.
[ "$1" = --version ] && exec echo "kernel overlayfs"
IFS=, read -ra words <<<"$2"
options=
for word in "${words[@]}"; do
    case $word in
    lowerdir=*)
        IFS=: read -ra lowers <<<"${word#*=}"
        for lower in "${lowers[@]}"; do
            find -L "$lower" -maxdepth 0 >/dev/null
            (cd -P "$lower" && find . -name '.wh.*' -type f | while read -r marker; do
                parent=${marker%/*} name=${marker##*/.wh.}
                if [ "$name" = .wh..opq ]; then setfattr -n trusted.overlay.opaque -v y "$parent"; else mknod "$parent/$name" c 0 0; fi
                rm "$marker"
            done)
        done
        ;;
    upperdir=* | workdir=* | volatile) ;;
    *) continue ;;
    esac
    options+=,$word
done
exec mount -t overlay overlay -o "${options#,}" "$3"
