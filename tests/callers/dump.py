# Prints everything a program can learn of a tree; times only where nothing was written since $2.
import hashlib, os, stat, sys

root, since = sys.argv[1].encode(), float(sys.argv[2])
links = {}

def describe(path):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    words = [oct(s.st_mode), f"{s.st_uid}:{s.st_gid}"]
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        words.append(f"{os.major(s.st_rdev)}:{os.minor(s.st_rdev)}")
    if kind == stat.S_IFLNK:
        words.append("-> " + os.fsdecode(os.readlink(path)))
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            words.append(f"{s.st_size} {hashlib.sha256(f.read()).hexdigest()[:16]}")
    if kind != stat.S_IFDIR:
        words.append(f"links {s.st_nlink} first {links.setdefault((s.st_dev, s.st_ino), os.path.relpath(path, root)).decode()}")
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        words.append(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}")
    if s.st_mtime < since:
        words.append(f"@{s.st_mtime_ns}")
    return " ".join(words)

def walk(path):
    print(os.fsdecode(os.path.relpath(path, root)), describe(path))
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)):
            walk(os.path.join(path, name))

walk(root)
