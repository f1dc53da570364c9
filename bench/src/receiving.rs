//! The receiving side: a wire whose packets one CPU takes, in a thread of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use testbed::TestNet;

use crate::Bench;
use crate::threads::{kernel_threads, run_time};

/// The port that everything is sent to.
pub const PORT: u16 = 9999;

/// Bytes of a socket's buffer.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// A wire whose receiving end polls in threads of its own (threaded NAPI), bound to one
/// CPU: so the scheduler's account of them is what receiving costs.
pub struct Receiving {
    /// The wire.
    pub wire: Arc<TestNet>,
    cpu: u32,
    /// Threads of other wires whose interfaces have the same name.
    others: Vec<u32>,
    napi: Vec<u32>,
    packets: File,
    /// Files that were written, and what they said before.
    changed: Vec<(String, String)>,
}

impl Receiving {
    /// Makes a wire, or takes the ports that there are, with `cpu` to receive.
    pub fn new(bench: &Bench, cpu: u32) -> Result<Receiving> {
        let others = kernel_threads(&format!("napi/{}-", TestNet::INTERFACE))?;
        let wire = bench.wire()?;
        wire.poll_with_napi()?;
        let files = format!("/sys/class/net/{}", wire.interface);
        let packets = wire.receiver.enter(|| {
            testbed::mount_own_sysfs()?;
            File::open(format!("{files}/statistics/rx_packets"))
        })?;
        let (napi, changed) = (Vec::new(), Vec::new());
        let mut receiving = Receiving { wire, cpu, others, napi, packets, changed };
        receiving.write(format!("{files}/threaded"), "1")?;
        receiving.settle()?;
        Ok(receiving)
    }

    /// Finds and binds the polling threads, again when a program was attached: drivers may
    /// start others then.
    pub fn settle(&mut self) -> Result<()> {
        let prefix = format!("napi/{}-", self.wire.interface);
        self.napi = kernel_threads(&prefix)?;
        self.napi.retain(|thread| !self.others.contains(thread));
        ensure!(!self.napi.is_empty(), "there is no thread {prefix}*");
        self.napi.iter().try_for_each(|thread| Ok(testbed::pin_thread(*thread, self.cpu)?))
    }

    /// Writes a file of /sys as the receiver sees it, until this is dropped.
    fn write(&mut self, file: String, text: &str) -> Result<()> {
        let before = self.wire.receiver.enter(|| {
            testbed::mount_own_sysfs()?;
            let before = fs::read_to_string(&file)?;
            fs::write(&file, text).map(|()| before)
        });
        self.changed.push((file.clone(), before.context(file)?));
        Ok(())
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
    pub fn steer_packets(&mut self, cpu: u32) -> Result<()> {
        ensure!(cpu < 32, "CPU {cpu} is beyond the first word of a CPU mask");
        let queues = format!("/sys/class/net/{}/queues", self.wire.interface);
        let queues = self.wire.receiver.enter(|| -> Result<Vec<String>> {
            testbed::mount_own_sysfs()?;
            let queues = fs::read_dir(queues)?.map(|queue| Ok(queue?.path().join("rps_cpus")));
            let queues: Vec<_> = queues.collect::<Result<_>>()?;
            let files = queues.iter().filter(|file| file.exists());
            Ok(files.map(|file| file.display().to_string()).collect())
        })?;
        let mask = format!("{:x}", 1u32 << cpu);
        queues.into_iter().try_for_each(|file| self.write(file, &mask))
    }

    /// A socket on [`PORT`], which others may share.
    pub fn socket(&self) -> Result<Socket> {
        self.wire.receiver.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            testbed::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
            socket.bind(&TestNet::destination(PORT).into())?;
            Ok(socket)
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let back = || {
            testbed::mount_own_sysfs()?;
            self.changed.iter().try_for_each(|(file, before)| fs::write(file, before.trim()))
        };
        if let Err(error) = self.wire.receiver.enter(back) {
            eprintln!("not all of {:?} is as it was: {error}", self.changed);
        }
    }
}
