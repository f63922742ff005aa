//! The whole way from a message to a reply, over a real union on scratch directories.

use std::panic::catch_unwind;

use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::fuse::handshake::MAX_WRITE;
use crate::fuse::wire::samples::{extensions, message, samples, with_extensions};
use crate::fuse::wire::{Treatment, decode};
use crate::union::{Config, NoTransport};

const DIALECT: Dialect = Dialect { setxattr_ext: true };

/// A server on an upper, a work directory and one lower with a few names; `None`, and said so, where no union opens.
fn server(scratch: &tempfile::TempDir, shape: Shape) -> Option<Server> {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.path().join(name));
    for dir in [&lower, &upper, &work, &lower.join("dir")] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(lower.join("name"), b"hello").unwrap();
    let config = Config {
        lower: vec![lower],
        upper: Some(upper),
        work: Some(work),
        userxattr: !nix::unistd::geteuid().is_root(),
        ..Config::default()
    };
    let union = catch_unwind(|| Union::open(&config, Arc::new(NoTransport)));
    let Ok(Ok(union)) = union else {
        eprintln!("skipped: no union can be opened here");
        return None;
    };
    Some(Server::new(Arc::new(union), shape, DIALECT, Unasked::default(), Arc::default()))
}

/// Serves one message as a channel would.
fn ask(server: &Server, message: &[u8], body: &mut [u8]) -> Option<Reply> {
    let mut handed = Handed::default();
    let answer = server.serve(message, body, &mut handed);
    handed.confirm();
    answer.map(|answer| answer.reply)
}

#[test]
fn what_the_table_does_not_serve_is_enosys() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Plain) else { return };
    let mut body = vec![0; 4096];
    let unserved = OPCODES.iter().filter(|line| line.treatment != Treatment::Served).map(|line| line.number);
    for number in unserved.chain([0, 54, 4095, u32::MAX]) {
        let reply = ask(&server, &message(number, 1, &[&[0; 64]]), &mut body);
        assert_eq!(reply, Some(Reply::Failed(Errno::ENOSYS)), "opcode {number}");
    }
}

/// F-40
#[test]
fn everything_the_table_serves_gets_past_the_dispatch() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Plain) else { return };
    let mut body = vec![0; 64 * 1024];
    for sample in samples() {
        let opcode = abi::InHeader::read_from_prefix(&sample).unwrap().0.opcode;
        let reply = ask(&server, &sample, &mut body).unwrap();
        assert_ne!(reply, Reply::Failed(Errno::ENOSYS), "opcode {opcode}");
        assert_eq!(reply == Reply::Nothing, has_no_reply(opcode), "opcode {opcode}");
    }
    assert_eq!(server.stats.malformed.load(Relaxed), 0);
    assert_eq!(server.stats.panics.load(Relaxed), 0);
}

#[test]
fn the_unseen_directory_has_the_union_as_its_only_child() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Beneath) else { return };
    let mut body = vec![0; 4096];
    let name = nodes::CHILD.to_bytes_with_nul();
    assert_eq!(ask(&server, &message(wire::LOOKUP, 1, &[name]), &mut body), Some(Reply::Body(128)));
    let child = abi::EntryOut::read_from_prefix(&body).unwrap().0.nodeid;
    assert_eq!(server.shape.target_of(child), Target::Node(ROOT));
    ask(&server, &message(wire::LOOKUP, 1, &[b"other\0"]), &mut body);
    assert_eq!(abi::EntryOut::read_from_prefix(&body).unwrap().0.nodeid, 0);
    let made = ask(&server, &message(wire::MKDIR, 1, &[&[0; 8], b"d\0"]), &mut body);
    assert_eq!(made, Some(Reply::Failed(Errno::EACCES)));
}

#[test]
fn a_malformed_message_costs_one_request_and_is_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Plain) else { return };
    let mut body = vec![0; 4096];
    assert_eq!(ask(&server, b"short", &mut body), None);
    let unterminated = message(wire::LOOKUP, 1, &[b"name"]);
    assert_eq!(ask(&server, &unterminated, &mut body), Some(Reply::Failed(Errno::EIO)));
    let forget = message(wire::FORGET, 1, &[b"x"]);
    assert_eq!(ask(&server, &forget, &mut body), Some(Reply::Nothing));
    assert_eq!(server.stats.malformed.load(Relaxed), 3);
    assert!(matches!(ask(&server, &message(wire::STATFS, 1, &[]), &mut body), Some(Reply::Body(80))));
}

#[test]
fn a_creating_request_from_an_unmapped_id_is_eoverflow() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Plain) else { return };
    let mut mkdir = message(wire::MKDIR, 1, &[&[0; 8], b"d\0"]);
    mkdir[std::mem::offset_of!(abi::InHeader, uid)..][..4].fill(0xff);
    assert_eq!(ask(&server, &mkdir, &mut [0; 256]), Some(Reply::Failed(Errno::EOVERFLOW)));
}

/// A-6, F-17: on a free name, over a whiteout, and on a file without a name.
#[test]
fn the_label_that_comes_with_a_creating_request_is_on_the_new_object() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can write security labels");
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(server) = server(&scratch, Shape::Plain) else { return };
    let mut body = vec![0; 4096];
    assert_eq!(ask(&server, &message(wire::UNLINK, 1, &[b"name\0"]), &mut body), Some(Reply::Body(0)));
    let create = abi::CreateIn { flags: libc::O_RDWR as u32, mode: 0o100_644, umask: 0, open_flags: 0 };
    let mkdir = abi::MkdirIn { mode: 0o755, umask: 0 };
    let fifo = abi::MknodIn { mode: 0o010_644, ..Default::default() };
    let requests: [(u32, &[&[u8]]); 6] = [
        (wire::CREATE, &[create.as_bytes(), b"file\0"]),
        (wire::CREATE, &[create.as_bytes(), b"name\0"]),
        (wire::MKDIR, &[mkdir.as_bytes(), b"new-dir\0"]),
        (wire::MKNOD, &[fifo.as_bytes(), b"fifo\0"]),
        (wire::SYMLINK, &[b"link\0", b"target\0"]),
        (wire::TMPFILE, &[create.as_bytes(), b"/\0"]),
    ];
    for (opcode, parts) in requests {
        let reply = ask(&server, &with_extensions(opcode, 1, parts, &extensions()), &mut body);
        assert!(matches!(reply, Some(Reply::Body(_))), "opcode {opcode}: {reply:?}");
    }
    let upper = crate::sys::Dir::open_path(&scratch.path().join("upper")).unwrap();
    for name in ["file", "name", "new-dir", "fifo", "link"] {
        let name = crate::sys::NameBuf::new(name.as_bytes()).unwrap();
        let label = upper.at(&name).find_xattr(c"security.selinux").unwrap();
        assert_eq!(label.as_deref(), Some(&b"system_u:object_r:tmp_t:s0\0"[..]), "{name}");
    }
    // The file without a name is answered with its node.
    let node = u64::from_ne_bytes(body[..8].try_into().unwrap());
    let get = abi::GetxattrIn { size: 64, padding: 0 };
    let asked = message(wire::GETXATTR, node, &[get.as_bytes(), b"security.selinux\0"]);
    assert!(matches!(ask(&server, &asked, &mut body), Some(Reply::Body(_))));
    assert!(body.starts_with(b"system_u:object_r:tmp_t:s0\0"));
}

/// A small generator whose whole state is its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Damages a message the way a confused or later kernel might: other numbers, lengths, and ends.
fn mutate(message: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(4) {
        let at = random.below(message.len());
        match random.below(6) {
            0 => message[at] ^= 1 << random.below(8),
            1 => message[at] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.'][random.below(7)],
            2 => message.truncate(at.max(1)),
            3 => message.extend((0..random.below(40)).map(|_| random.next() as u8)),
            4 if message.len() > 8 => {
                let word = [0, 1, 2, u64::MAX, 1 << 31, 1 << 63, 4096][random.below(7)];
                let at = random.below(message.len() - 8) & !7;
                message[at..at + 8].copy_from_slice(&word.to_ne_bytes());
            }
            _ => message.insert(at, random.next() as u8),
        }
    }
    // Mostly an honest length, so that more than the length check is tested.
    if random.below(8) != 0 && message.len() >= 4 {
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
    }
}

/// Whether serving `message` would take more of this machine than a test may.
fn costly(message: &[u8]) -> bool {
    match decode(message, DIALECT).map(|request| request.operation) {
        Ok(Operation::Fallocate(args)) => args.length > 1 << 20,
        Ok(Operation::Syncfs) => true,
        _ => false,
    }
}

#[test]
fn no_message_panics_the_server_or_yields_more_than_its_buffer() {
    let seed = setting("ACETATE_FUZZ_SEED", u64::from(std::process::id()));
    let rounds = setting("ACETATE_FUZZ_ITERATIONS", 20_000);
    println!("ACETATE_FUZZ_SEED={seed} ACETATE_FUZZ_ITERATIONS={rounds}");
    let scratch = tempfile::tempdir().unwrap();
    let server = server(&scratch, Shape::Plain);
    let mut random = Random(seed);
    let samples = samples();
    let mut body = vec![0; MAX_WRITE as usize];
    for round in 0..rounds {
        let mut message = samples[random.below(samples.len())].clone();
        mutate(&mut message, &mut random);
        let costly = costly(&message);
        let Some(server) = server.as_ref().filter(|_| !costly) else { continue };
        let size = [0, 16, 200, 4096, body.len()][random.below(5)];
        if let Some(Reply::Body(length)) = ask(server, &message, &mut body[..size]) {
            assert!(length <= size, "round {round} of seed {seed}");
        }
        assert_eq!(server.stats.panics.load(Relaxed), 0, "round {round} of seed {seed}: {message:02x?}");
    }
}
