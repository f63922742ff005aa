//! Which transport the mounts under test use: `/dev/fuse`, or what `ACETATE_TEST_TRANSPORT` names.

/// As a word of `-o`. It is never left to the program: the switch of the kernel may change while tests run, and a server
/// that is killed over io_uring can hang in the kernel.
pub fn option() -> String {
    let transport = std::env::var("ACETATE_TEST_TRANSPORT").unwrap_or_else(|_| "dev".into());
    format!("transport={transport}")
}
