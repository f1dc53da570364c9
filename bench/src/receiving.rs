//! The receiving side: a wire whose packets one CPU takes, in a thread of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use testbed::Wire;

use crate::Bench;
use crate::threads::{kernel_threads, run_time};

/// The port that everything is sent to.
pub const PORT: u16 = 9999;

/// Bytes of a socket's buffer.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A wire whose receiving end polls in threads of its own (threaded NAPI), bound to one
/// CPU: so the scheduler's account of them is what receiving costs.
pub struct Receiving {
    /// The wire.
    pub wire: Wire,
    napi: Vec<u32>,
    packets: File,
    /// The file that says whether it polls in threads, and what it said.
    threaded: (String, String),
}

impl Receiving {
    /// Makes a wire, or takes the ports that there are, with `cpu` to receive.
    pub fn new(bench: &Bench, cpu: u32) -> Result<Receiving> {
        let wire = bench.wire()?;
        let interface = &wire.interface;
        let prefix = format!("napi/{interface}-");
        let before = kernel_threads(&prefix)?;
        wire.poll_with_napi()?;
        let files = format!("/sys/class/net/{interface}");
        let threaded = format!("{files}/threaded");
        let (packets, before_threads) = wire.receiver.enter(|| -> Result<(File, String)> {
            testbed::see_own_sys()?;
            let before = fs::read_to_string(&threaded).with_context(|| threaded.clone())?;
            fs::write(&threaded, "1").with_context(|| threaded.clone())?;
            Ok((File::open(format!("{files}/statistics/rx_packets"))?, before))
        })?;
        let mut napi = kernel_threads(&prefix)?;
        napi.retain(|thread| !before.contains(thread));
        let threaded = (threaded, before_threads);
        let receiving = Receiving { wire, napi, packets, threaded };
        ensure!(!receiving.napi.is_empty(), "there is no thread {prefix}*");
        for thread in &receiving.napi {
            testbed::pin_thread(*thread, cpu)?;
        }
        Ok(receiving)
    }

    /// How many packets the interface took, wherever they ended.
    pub fn packets(&self) -> Result<u64> {
        let mut text = [0; 32];
        let length = self.packets.read_at(&mut text, 0)?;
        Ok(std::str::from_utf8(&text[..length])?.trim().parse()?)
    }

    /// How long its threads have been running, in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        self.napi.iter().map(|thread| run_time(*thread)).sum()
    }

    /// Has the kernel hand packets to another CPU before it looks at them (RPS).
    pub fn steer_packets(&self, cpu: u32) -> Result<()> {
        ensure!(cpu < 32, "CPU {cpu} is beyond the first word of a CPU mask");
        let queues = format!("/sys/class/net/{}/queues", self.wire.interface);
        self.wire.receiver.enter(|| {
            testbed::see_own_sys()?;
            for entry in fs::read_dir(&queues)? {
                let file = entry?.path().join("rps_cpus");
                if file.exists() {
                    fs::write(&file, format!("{:x}", 1u32 << cpu))
                        .with_context(|| file.display().to_string())?;
                }
            }
            Ok(())
        })
    }

    /// A socket on [`PORT`], which others may share.
    pub fn socket(&self) -> Result<Socket> {
        self.wire.receiver.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
            socket.bind(&Wire::destination(PORT).into())?;
            Ok(socket)
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let (file, before) = &self.threaded;
        let back = || testbed::see_own_sys().and_then(|()| fs::write(file, before.trim()));
        if let Err(error) = self.wire.receiver.enter(back) {
            eprintln!("{file} is not as it was: {error}");
        }
    }
}
