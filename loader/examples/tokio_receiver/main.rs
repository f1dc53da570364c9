//! Ingest with tokio on an interface of this machine. Prints its counters once a second until
//! it is interrupted. `tasks.rs` in this folder is the part to copy.
//!
//! ```sh
//! cargo run --example tokio_receiver -- eth0 0 1 2 3    # interface, CPUs
//! ```

mod tasks;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use laminar_xdp::{Ingest, IngestConfig, XdpConfig, XdpError};
use tasks::ReceiverTasks;

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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.with_causes());
            ExitCode::FAILURE
        }
    }
}

/// Receives datagrams until a task fails.
fn ingest(interface: &str, cpus: Vec<u32>) -> Result<(), XdpError> {
    let xdp_config = XdpConfig::builder().enabled(true).interface(interface).build()?;
    let ingest = Ingest::open(&IngestConfig::new(cpus), &xdp_config)?;
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = bytes.clone();
    let tasks = ReceiverTasks::start(&ingest, move |datagram| {
        counter.fetch_add(datagram.payload.len() as u64, Ordering::Relaxed);
    })?;
    println!("port {} on CPUs {:?}: {}", ingest.port()?, ingest.cpus(), ingest.mode());
    while !tasks.has_failed() {
        std::thread::sleep(Duration::from_secs(1));
        println!("{} bytes of payload\n{}", bytes.load(Ordering::Relaxed), ingest.stats()?);
    }
    tasks.stop()
}
