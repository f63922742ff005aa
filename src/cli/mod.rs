//! temporary
#![allow(missing_docs, clippy::all)]
use std::process::ExitCode;
pub mod diff;
pub mod grid;
pub fn main() -> ExitCode {
    let mut config = crate::union::Config::default();
    let args: Vec<String> = std::env::args().collect();
    let mut mnt = String::new();
    let mut i = 1;
    while i < args.len() {
        if args[i] == "-o" { i += 1; for o in args[i].split(',') {
            let (k, v) = o.split_once('=').unwrap_or((o, ""));
            match k {
                "lowerdir" => config.lower = v.split(':').map(Into::into).collect(),
                "upperdir" => config.upper = Some(v.into()),
                "workdir" => config.work = Some(v.into()),
                "redirect_dir" => config.redirect = if v == "on" { crate::union::Redirect::On } else { crate::union::Redirect::Follow },
                "index" => config.index = v == "on",
                "metacopy" => { config.metacopy = v == "on"; if config.metacopy { config.redirect = crate::union::Redirect::On } }
                "nfs_export" => { config.nfs_export = v == "on"; config.index |= v == "on" }
                "userxattr" => config.userxattr = true,
                "xino" => config.xino = if v == "on" { crate::union::Xino::On } else { crate::union::Xino::Auto },
                "volatile" => config.fsync = crate::union::Fsync::Volatile,
                "passthrough" => if v == "off" { config.passthrough = crate::union::Passthrough::Off },
                "whiteout" => config.oci_whiteouts = v == "oci",
                _ => eprintln!("ignored {k}"),
            } } } else { mnt = args[i].clone() }
        i += 1;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let options = crate::fuse::Options { mountpoint: mnt.into(), read_only: config.upper.is_none(), allow_other: true, nodev: false, nosuid: false, noexec: false, noatime: false, acl: true, export: config.nfs_export, passthrough: config.passthrough == crate::union::Passthrough::Auto, stacked: false, threads: None, source: "acetate".into() };
    let (mut r, w) = std::io::pipe().unwrap();
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { .. } => { drop(w); let mut s = String::new(); std::io::Read::read_to_string(&mut r, &mut s).unwrap(); if s == "ok" { return ExitCode::SUCCESS } eprintln!("{s}"); return ExitCode::FAILURE }
        _ => {}
    }
    drop(r);
    struct L; impl log::Log for L { fn enabled(&self, _: &log::Metadata) -> bool { true } fn log(&self, r: &log::Record) { eprintln!("{}: {}", r.level(), r.args()) } fn flush(&self) {} }
    log::set_boxed_logger(Box::new(L)).unwrap(); log::set_max_level(log::LevelFilter::Info);
    let m = crate::fuse::mount(&options, |t| crate::union::Union::open(&config, t));
    use std::io::Write; let mut w = w;
    match m { Err(e) => { write!(w, "{e}").unwrap(); ExitCode::FAILURE } Ok(m) => { write!(w, "ok").unwrap(); drop(w);
        nix::unistd::setsid().ok(); nix::unistd::chdir("/").ok();
        m.wait(); ExitCode::SUCCESS } }
}
