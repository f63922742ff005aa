"""For the scripts beside it: running commands, removing trees, and saying everything there is to know about trees."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time


class Bad(Exception):
    """Something that must not happen; the text says what."""


def run(*command, seconds=300, **options):
    """Runs a command; its output, or Bad with what it said."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, errors="replace", **options
    )
    if done.returncode:
        raise Bad(f"{' '.join(command)}: exit status {done.returncode}: {done.stdout.strip()[-400:]}")
    return done.stdout


def remove(path):
    """Removes a tree, protected files as well."""
    for attempt in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        subprocess.run(["chattr", "-R", "-i", "-a", path], stderr=subprocess.DEVNULL, check=False)
        time.sleep(attempt)
    shutil.rmtree(path)


def describe(root, moments=False):
    """Every object below `root`, by path: a field for all there is to know. `moments`: with numbers and times that only
    an untouched tree keeps."""
    seen = {}
    for parent, directories, files in os.walk(root):
        for name in [""] * (parent == root) + directories + files:
            path = f"{parent}/{name}".rstrip("/")
            told = os.lstat(path)
            names = sorted(os.listxattr(path, follow_symlinks=False))
            about = {
                "mode": oct(told.st_mode),
                "owner": (told.st_uid, told.st_gid),
                "device": told.st_rdev,
                "mtime": told.st_mtime_ns,
                "xattrs": [(x, os.getxattr(path, x, follow_symlinks=False)) for x in names],
            }
            if moments:
                about["moments"] = (told.st_ino, told.st_atime_ns, told.st_ctime_ns)
            if moments or not stat.S_ISDIR(told.st_mode):
                about["links"] = told.st_nlink
            if not stat.S_ISDIR(told.st_mode):
                about["size"] = told.st_size
            if stat.S_ISLNK(told.st_mode):
                about["target"] = os.readlink(path)
            elif stat.S_ISREG(told.st_mode):
                about["content"] = hash_of(path)
            seen[os.path.relpath(path, root)] = about
    return seen


def hash_of(path):
    whole = hashlib.blake2b(digest_size=16)
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def differences(before, after):
    return [path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path)]


def fingerprint(layers):
    """Of trees that nobody may change, not even by reading: reached through a mount that never notes an access."""
    quiet = tempfile.mkdtemp(prefix="quiet.", dir=os.path.dirname(layers[0]))
    whole = {}
    for layer in layers:
        run("mount", "--bind", layer, quiet)
        run("mount", "-o", "remount,bind,noatime,nodiratime", quiet)
        whole.update({(os.path.basename(layer), path): about for path, about in describe(quiet, moments=True).items()})
        run("umount", quiet)
    os.rmdir(quiet)
    return whole


def alive(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def status_of(acetate, mnt):
    return json.loads(run(acetate, "status", "--json", mnt, seconds=120))


def server_of(acetate, mnt):
    return status_of(acetate, mnt)["pid"]


def unmount(acetate, mnt):
    """Anything else on the machine may look into a mount for a moment: tries for a minute."""
    for _ in range(60):
        done = subprocess.run([acetate, "umount", mnt], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
        if done.returncode == 0:
            return
        time.sleep(1)
    raise Bad(f"umount {mnt}: {done.stdout.decode(errors='replace').strip()}")
