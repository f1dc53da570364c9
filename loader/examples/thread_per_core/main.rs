//! Thread-per-core ingest on an interface of this machine. Prints its counters once a second
//! until it is interrupted. `runtime.rs` in this folder is the part to copy.
//!
//! ```sh
//! cargo run --example thread_per_core -- eth0 0 1 2 3    # interface, CPUs
//! ```

#[allow(dead_code, reason = "this example does not use all of the runtime")]
mod runtime;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laminar_xdp::{IngestConfig, XdpConfig, XdpError};
use runtime::ThreadPerCoreRuntime;

fn main() -> ExitCode {
    // Warnings name what is missing, such as XDP or large receive buffers.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().unwrap_or_default();
    let cpus: Option<Vec<u32>> = arguments.map(|cpu| cpu.parse().ok()).collect();
    let Some(cpus) = cpus.filter(|cpus| !cpus.is_empty()) else {
        eprintln!(
            "error: name the interface that receives the datagrams (`ip link` lists them) and \
             the ids of the CPUs that own partitions (`lscpu -e` lists them)"
        );
        return ExitCode::FAILURE;
    };
    match ingest(&interface, cpus) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("error: {}", error.with_causes());
            ExitCode::FAILURE
        }
    }
}

fn ingest(interface: &str, cpus: Vec<u32>) -> Result<ExitCode, XdpError> {
    let xdp_config = XdpConfig::builder().enabled(true).interface(interface).build()?;
    let config = IngestConfig::new(cpus);
    let bytes = Arc::new(AtomicU64::new(0));
    let mut runtime = ThreadPerCoreRuntime::with_xdp(&config, &xdp_config, |_partition| {
        let bytes = bytes.clone();
        Box::new(move |datagram| {
            bytes.fetch_add(datagram.payload.len() as u64, Ordering::Relaxed);
        })
    })?;
    println!("port {} on CPUs {:?}: {}", xdp_config.port, config.cpus, runtime.ingest().mode());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let bytes = bytes.load(Ordering::Relaxed);
        println!("{bytes} bytes of payload\n{}", runtime.xdp_stats()?);
        let dead = runtime.dead_cpus();
        if !dead.is_empty() {
            eprintln!("the threads of CPUs {dead:?} died; restarting them");
            runtime.restart_dead()?;
        }
    }
}
