# A snapshotter for containerd: layers as directories in $1, mounted as containerd's own for FUSE does, by
# `mount.fuse3 overlay DIR -o workdir=…,upperdir=…,lowerdir=… -t $3`. Serves the socket $2 until it is killed.
# The messages are few and plain, so they are read and written here (containerd, api/services/snapshots/v1).
import os, shutil, sys, threading
from concurrent import futures

import grpc

store, socket, program = sys.argv[1:]
os.makedirs(store, exist_ok=True)
VIEW, ACTIVE, COMMITTED = 1, 2, 3
lock = threading.Lock()
snapshots = {}


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytes([number]))


def message(**fields):
    """f1="text", f2=7, f3=[…] and so on; bytes are messages."""
    out = b""
    for field, values in fields.items():
        number = int(field[1:])
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                out += varint(number << 3) + varint(value)
            else:
                value = value.encode() if isinstance(value, str) else value
                out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def fields(data):
    """The fields of a message by number, each a list of bytes or numbers."""
    at, found = 0, {}

    def read():
        nonlocal at
        number = shift = 0
        while True:
            number |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return number

    while at < len(data):
        key = read()
        value = read()
        if key & 7 == 2:
            at += value
            value = data[at - value:at]
        found.setdefault(key >> 3, []).append(value)
    return found


class Refused(Exception):
    pass


class Snapshot:
    def __init__(self, kind, name, parent, labels):
        self.kind, self.name, self.parent, self.labels = kind, name, parent, labels
        self.dir = os.path.join(store, str(len(os.listdir(store)) + len(snapshots)))
        while os.path.exists(self.dir):
            self.dir += "x"
        os.makedirs(self.dir + "/fs")
        if kind == ACTIVE:
            os.mkdir(self.dir + "/work")
        below = snapshots[parent].dir + "/fs" if parent else None
        if below:
            shutil.copymode(below, self.dir + "/fs")
            owner = os.stat(below)
            os.chown(self.dir + "/fs", owner.st_uid, owner.st_gid)

    def lowers(self):
        name, found = self.parent, []
        while name:
            found.append(snapshots[name].dir + "/fs")
            name = snapshots[name].parent
        return found

    def mounts(self):
        lowers, own = self.lowers(), self.dir + "/fs"
        if not lowers or (self.kind == VIEW and len(lowers) == 1):
            access = "ro" if self.kind == VIEW else "rw"
            mount = message(f1="bind", f2=lowers[0] if lowers else own, f4=[access, "rbind"])
        else:
            options = ["lowerdir=" + ":".join(lowers)]
            if self.kind == ACTIVE:
                options = [f"workdir={self.dir}/work", f"upperdir={own}"] + options
            mount = message(f1="fuse3." + program, f2="overlay", f4=options)
        return message(f1=mount)

    def info(self):
        labels = [message(f1=key, f2=value) for key, value in self.labels.items()]
        return message(f1=self.name, f2=self.parent, f3=self.kind, f4=b"", f5=b"", f6=labels)


def known(name):
    if name not in snapshots:
        raise Refused(grpc.StatusCode.NOT_FOUND, f"snapshot {name} does not exist")
    return snapshots[name]


def text(request, number):
    return request.get(number, [b""])[-1].decode()


def labels(request, number):
    pairs = (fields(pair) for pair in request.get(number, []))
    return {text(pair, 1): text(pair, 2) for pair in pairs}


def add(kind, request):
    key, parent = text(request, 2), text(request, 3)
    if key in snapshots:
        raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"snapshot {key} exists")
    if parent and known(parent).kind != COMMITTED:
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"snapshot {parent} is not committed")
    snapshots[key] = Snapshot(kind, key, parent, labels(request, 4))
    return snapshots[key].mounts()


def commit(request):
    name, key = text(request, 2), text(request, 3)
    if name in snapshots:
        raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"snapshot {name} exists")
    snapshot = known(key)
    snapshot.name, snapshot.kind, snapshot.labels = name, COMMITTED, labels(request, 4)
    snapshots[name] = snapshots.pop(key)
    return b""


def remove(request):
    key = text(request, 2)
    gone = known(key)
    if any(other.parent == key for other in snapshots.values()):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"snapshot {key} has children")
    shutil.rmtree(gone.dir)
    del snapshots[key]
    return b""


def update(request):
    info = fields(request[2][0])
    snapshot = known(text(info, 1))
    snapshot.labels = labels(info, 6)
    return message(f1=snapshot.info())


def usage(request):
    size = inodes = 0
    for at, dirs, files in os.walk(known(text(request, 2)).dir + "/fs"):
        for name in dirs + files:
            size += os.lstat(os.path.join(at, name)).st_blocks * 512
            inodes += 1
    return message(f1=size, f2=inodes)


def answer(act):
    def method(data, context):
        with lock:
            try:
                return act(fields(data))
            except Refused as refused:
                context.abort(*refused.args)

    return grpc.unary_unary_rpc_method_handler(method)


def listed(data, context):
    with lock:
        infos = [snapshot.info() for snapshot in snapshots.values()]
    yield message(f1=infos)


methods = {
    "Prepare": answer(lambda request: add(ACTIVE, request)),
    "View": answer(lambda request: add(VIEW, request)),
    "Mounts": answer(lambda request: known(text(request, 2)).mounts()),
    "Commit": answer(commit),
    "Remove": answer(remove),
    "Stat": answer(lambda request: message(f1=known(text(request, 2)).info())),
    "Update": answer(update),
    "Usage": answer(usage),
    "Cleanup": answer(lambda request: b""),
    "List": grpc.unary_stream_rpc_method_handler(listed),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
service = "containerd.services.snapshots.v1.Snapshots"
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
server.add_insecure_port("unix:" + socket)
server.start()
server.wait_for_termination()
