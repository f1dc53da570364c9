//! Thread-per-core ingest on an interface of this machine: what arrives at each CPU, once
//! a second, until it is interrupted. `runtime.rs` beside it is the part to copy.
//!
//! ```sh
//! cargo run --example thread_per_core -- eth0
//! ```

#[allow(dead_code, reason = "it shows more than this program needs")]
mod runtime;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laminar_xdp::{IngestConfig, XdpConfig, XdpError};
use runtime::ThreadPerCoreRuntime;

fn main() -> ExitCode {
    let Some(interface) = std::env::args().nth(1) else {
        eprintln!("error: name the interface that the datagrams arrive on (`ip link` lists them)");
        return ExitCode::FAILURE;
    };
    match ingest(&interface) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ingest(interface: &str) -> Result<ExitCode, XdpError> {
    let xdp_config = XdpConfig::builder().enabled(true).interface(interface).build()?;
    let config = IngestConfig::new(testbed::online_cpus());
    let bytes = Arc::new(AtomicU64::new(0));
    let runtime = ThreadPerCoreRuntime::with_xdp(&config, &xdp_config, |_partition| {
        let bytes = bytes.clone();
        Box::new(move |datagram| {
            bytes.fetch_add(datagram.payload.len() as u64, Ordering::Relaxed);
        })
    })?;
    println!("port {} on CPUs {:?}: {}", xdp_config.port, config.cores, runtime.ingest().mode());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let bytes = bytes.load(Ordering::Relaxed);
        println!("{bytes} bytes of payload; {:?}", runtime.xdp_stats()?);
    }
}
