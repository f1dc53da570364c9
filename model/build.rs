//! Compiles the BPF program for the host twice: for packets in one buffer ("plain"), and for
//! packets in several buffers ("frags").

fn main() {
    println!("cargo::rerun-if-changed=host");
    println!("cargo::rerun-if-changed=../bpf-src");
    #[cfg(feature = "host")]
    for (name, frags) in [("plain", false), ("frags", true)] {
        let mut build = cc::Build::new();
        build.file("host/program.c").include("host").include("../bpf-src");
        if frags {
            build.define("LAMINAR_FRAGS", None);
        }
        // gcc does not know clang's `#pragma unroll`.
        build.flag_if_supported("-Wno-unknown-pragmas");
        if name == "plain" {
            build.file("host/layout.c");
        }
        build.opt_level(2).warnings(true).warnings_into_errors(true).compile(name);
    }
}
