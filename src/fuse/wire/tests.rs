use std::mem::{offset_of, size_of};

use zerocopy::{FromBytes, IntoBytes};

use super::abi::{Dirent, EntryOut, InHeader};
use super::samples::{extensions, message, samples, with_extensions};
use super::*;
use crate::sys::{Dev, Errno, Kind, Name, Time};
use crate::union::{self, AttrReply, DirEntry, NodeId, Owner, Valid};

const EXT: Dialect = Dialect { setxattr_ext: true };

fn decoded(message: &[u8]) -> Operation<'_> {
    decode(message, EXT).unwrap().operation
}

#[test]
fn decoding_serves_exactly_what_the_table_says_is_served() {
    let samples = samples();
    for line in OPCODES {
        let of_line = |m: &&Vec<u8>| InHeader::read_from_prefix(m).unwrap().0.opcode == line.number;
        match (line.treatment, samples.iter().find(of_line)) {
            (Treatment::Served, Some(sample)) => {
                let operation = decoded(sample);
                assert!(!matches!(operation, Operation::Unserved), "{} is not decoded", line.name);
            }
            (Treatment::Served, None) => panic!("{} has no sample", line.name),
            (Treatment::Enosys(why) | Treatment::Impossible(why), sample) => {
                assert!(sample.is_none() && !why.is_empty());
                let unserved = message(line.number, 1, &[&[0; 128]]);
                assert!(matches!(decoded(&unserved), Operation::Unserved), "{} is decoded", line.name);
            }
        }
    }
}

#[test]
fn names_and_data_arrive_as_sent() {
    let write = abi::WriteIn { fh: 1 << 63, offset: 1 << 62, size: 3, ..Default::default() };
    let sent = message(WRITE, 5, &[write.as_bytes(), b"abc"]);
    let Operation::Write { args, data } = decoded(&sent) else { panic!() };
    assert_eq!((args.fh, args.offset, data), (1 << 63, 1 << 62, &b"abc"[..]));

    let rename = abi::Rename2In { newdir: 77, flags: 1, padding: 0 };
    let sent = message(RENAME2, 5, &[rename.as_bytes(), b"from\xff\0", b"to\0"]);
    let Operation::Rename { newdir: 77, flags: 1, from, to } = decoded(&sent) else { panic!() };
    assert_eq!((from.as_bytes(), to.as_bytes()), (&b"from\xff"[..], &b"to"[..]));

    let sent = message(LOOKUP, 5, &[b"..\0"]);
    assert!(matches!(decoded(&sent), Operation::Lookup(Wanted::Parent)));
}

#[test]
fn ids_above_two_to_the_31_are_kept() {
    let sent = message(READLINK, 5, &[]);
    let header = decode(&sent, EXT).unwrap().header;
    assert_eq!((header.uid, header.nodeid, header.pid), (3_000_000_000, 5, 7));
}

/// F-16, F-17
#[test]
fn security_labels_and_the_supplementary_group_are_taken_from_the_extensions() {
    let create = abi::CreateIn::default();
    let sent = with_extensions(CREATE, 1, &[create.as_bytes(), b"f\0"], &extensions());
    let Operation::Create { name, extensions, .. } = decoded(&sent) else { panic!() };
    assert_eq!(name.as_bytes(), b"f");
    assert_eq!(extensions.security, [(c"security.selinux", &b"system_u:object_r:tmp_t:s0\0"[..])]);
    assert_eq!(extensions.groups, [3_000_000_001]);
}

#[test]
fn an_extension_that_claims_more_than_there_is_costs_the_request() {
    for damage in [0, 4, 8, 12] {
        let mut bad = extensions();
        bad[damage + 1] = 0xff;
        let sent = with_extensions(MKDIR, 1, &[abi::MkdirIn::default().as_bytes(), b"d\0"], &bad);
        let outcome = decode(&sent, EXT);
        // A kind nobody knows is skipped; every other lie is malformed.
        assert!(
            matches!(outcome, Err(Undecodable::Malformed(..))) || damage == 4 || damage == 12,
            "{damage}"
        );
    }
    let mut sent = message(MKDIR, 1, &[abi::MkdirIn::default().as_bytes(), b"d\0"]);
    sent[offset_of!(InHeader, total_extlen)] = 200;
    assert!(matches!(decode(&sent, EXT), Err(Undecodable::Malformed(_, Broken::Truncated))));
}

/// F-27
#[test]
fn a_setxattr_of_either_length_is_understood() {
    let long = abi::SetxattrIn { size: 2, flags: 2, setxattr_flags: 1, padding: 0 };
    let sent = message(SETXATTR, 1, &[long.as_bytes(), b"user.a\0", b"xy"]);
    let Operation::Setxattr { args, name, value } = decoded(&sent) else { panic!() };
    assert_eq!((args.setxattr_flags, name, value), (1, c"user.a", &b"xy"[..]));

    let short = abi::SetxattrInShort { size: 2, flags: 2 };
    let sent = message(SETXATTR, 1, &[short.as_bytes(), b"user.a\0", b"xy"]);
    let request = decode(&sent, Dialect { setxattr_ext: false }).unwrap();
    let Operation::Setxattr { args, name, value } = request.operation else { panic!() };
    assert_eq!((args.flags, args.setxattr_flags, name, value), (2, 0, c"user.a", &b"xy"[..]));
}

#[test]
fn a_name_that_is_too_long_is_refused_and_not_malformed() {
    let long = [&[b'x'; 256][..], b"\0"].concat();
    for (opcode, prefix) in [(LOOKUP, 0), (UNLINK, 0), (MKDIR, size_of::<abi::MkdirIn>())] {
        let sent = message(opcode, 1, &[&vec![0; prefix], &long]);
        assert!(matches!(decode(&sent, EXT), Err(Undecodable::Refused(_, Errno::ENAMETOOLONG))));
    }
    let sent = message(MKDIR, 1, &[abi::MkdirIn::default().as_bytes(), b"a/b\0"]);
    assert!(matches!(decode(&sent, EXT), Err(Undecodable::Refused(_, Errno::EINVAL))));
}

#[test]
fn a_message_cut_anywhere_is_never_misread() {
    for whole in samples() {
        assert!(decode(&whole, EXT).is_ok());
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            assert!(decode(&cut, EXT).is_err(), "length not as stated");
            if length < size_of::<InHeader>() {
                assert_eq!(decode(&cut, EXT).unwrap_err(), Undecodable::NoHeader);
                continue;
            }
            cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            if let Ok(Request { operation: Operation::Write { args, data }, .. }) = decode(&cut, EXT) {
                assert_eq!(args.size as usize, data.len());
            }
        }
    }
}

fn example() -> AttrReply {
    let attr = union::Attr {
        ino: u64::MAX - 1,
        mode: 0o020_644,
        nlink: 3,
        owner: Owner { uid: 3_000_000_000, gid: u32::MAX - 1 },
        rdev: Dev { major: 0xfff, minor: 0xf_ffff },
        size: 1 << 62,
        blocks: 1 << 53,
        blksize: 4096,
        atime: Time { secs: -1, nanos: 999_999_999 },
        mtime: Time { secs: i64::MIN, nanos: 0 },
        ctime: Time { secs: 1 << 40, nanos: 1 },
        btime: Some(Time { secs: -7, nanos: 7 }),
    };
    AttrReply { attr, valid: Valid::Never }
}

#[test]
fn attributes_at_their_limits_survive_the_wire() {
    let out = attr_out(&example());
    let back = abi::AttrOut::read_from_bytes(out.as_bytes()).unwrap().attr;
    assert_eq!((back.atime.cast_signed(), back.atimensec), (-1, 999_999_999));
    assert_eq!((back.mtime.cast_signed(), back.ctime.cast_signed()), (i64::MIN, 1 << 40));
    assert_eq!((back.uid, back.gid, back.size), (3_000_000_000, u32::MAX - 1, 1 << 62));
    assert_eq!(Dev::from_wire(back.rdev), Dev { major: 0xfff, minor: 0xf_ffff });
    assert_eq!(out.attr_valid, 0);
}

#[test]
fn statx_tells_the_birth_time_only_when_it_is_known() {
    let mut reply = example();
    let out = statx_out(&reply);
    assert_eq!((out.stat.btime.tv_sec, out.stat.btime.tv_nsec), (-7, 7));
    assert_ne!(out.stat.mask & libc::STATX_BTIME, 0);
    reply.attr.btime = None;
    assert_eq!(statx_out(&reply).stat.mask & libc::STATX_BTIME, 0);
}

#[test]
fn an_entry_carries_its_wire_node_and_a_missing_name_carries_none() {
    let entry =
        union::Entry { node: NodeId(4), generation: 9, attr: example(), name: union::Valid::Unlimited };
    let out = entry_out(5, &entry);
    assert_eq!((out.nodeid, out.generation), (5, 9));
    assert!(out.entry_valid > 1 << 31);
    let missing = negative_entry();
    assert_eq!(missing.nodeid, 0);
    assert_eq!(missing.entry_valid, out.entry_valid);
}

#[test]
fn directory_records_are_aligned_and_stop_before_the_buffer_does() {
    for size in 0..400 {
        let mut buffer = vec![0xaa; size];
        let mut writer = DirWriter::new(&mut buffer);
        let names: Vec<Vec<u8>> = (1..20).map(|n| vec![b'a'; n]).collect();
        let entry = |i: usize| DirEntry { ino: 7, kind: Kind::Fifo, next: i as u64 + 1, name: &names[i] };
        let written = (0..names.len()).take_while(|i| writer.plain(&entry(*i))).count();
        let used = writer.used();
        assert!(used <= size && used.is_multiple_of(8));
        let mut at = 0;
        for (i, name) in names.iter().enumerate().take(written) {
            let (head, rest) = Dirent::read_from_prefix(&buffer[at..]).unwrap();
            assert_eq!((head.ino, head.off, head.kind), (7, i as u64 + 1, u32::from(libc::DT_FIFO)));
            assert_eq!(&rest[..head.namelen as usize], &name[..]);
            at += abi::aligned(size_of::<Dirent>() + name.len());
        }
        assert_eq!(at, used);
        assert!(buffer[used..].iter().all(|byte| *byte == 0xaa), "nothing behind the last record is touched");
    }
}

#[test]
fn a_plus_record_without_a_node_has_node_zero() {
    let mut buffer = [0u8; 512];
    let mut writer = DirWriter::new(&mut buffer);
    let dot = DirEntry { ino: 1, kind: Kind::Dir, next: 1, name: b"." };
    let known = entry_out(
        5,
        &union::Entry { node: NodeId(4), generation: 0, attr: example(), name: union::Valid::Unlimited },
    );
    assert!(writer.plus(None, &dot));
    assert!(writer.plus(Some(&known), &DirEntry { name: b"f", ..dot }));
    let one = abi::aligned(size_of::<EntryOut>() + size_of::<Dirent>() + 1);
    assert_eq!(writer.used(), 2 * one);
    assert_eq!(EntryOut::read_from_prefix(&buffer).unwrap().0.nodeid, 0);
    assert_eq!(EntryOut::read_from_prefix(&buffer[one..]).unwrap().0, known);
}

#[test]
fn a_served_name_needs_no_further_check() {
    let sent = message(LOOKUP, 1, &[b"plain\0"]);
    let Operation::Lookup(Wanted::Child(name)) = decoded(&sent) else { panic!() };
    assert_eq!(name, Name::new(c"plain").unwrap());
}
