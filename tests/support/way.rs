//! Which transport and data path the mounts under test use: `/dev/fuse` and the defaults, or what
//! `ACETATE_TEST_TRANSPORT` and `ACETATE_TEST_DATA` name.

/// As words of `-o`. The transport is never left to the program: the switch of the kernel may change while tests run,
/// and a server that is killed over io_uring can hang in the kernel.
pub fn option() -> String {
    let transport = std::env::var("ACETATE_TEST_TRANSPORT").unwrap_or_else(|_| "dev".into());
    match std::env::var("ACETATE_TEST_DATA").as_deref() {
        Ok("cached") => format!("transport={transport},writeback_cache=on"),
        Ok(other) => panic!("ACETATE_TEST_DATA={other}: only cached"),
        Err(_) => format!("transport={transport}"),
    }
}
