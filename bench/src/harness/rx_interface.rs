//! The receiving interface. Kernel threads on one CPU process its packets, and the CPU time of
//! these threads can be measured.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use testbed::TestNet;

use crate::harness::threads::{kernel_threads, run_time};
use crate::session::Session;

/// The destination port of all packets.
pub const PORT: u16 = 9999;

/// The receive buffer of a socket in bytes.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// The receiving interface of a test network. Kernel threads poll the interface (threaded NAPI),
/// and all of these threads are bound to one CPU. The run time of these threads is therefore the
/// cost of receiving.
pub struct RxInterface {
    /// The network that the interface belongs to.
    pub net: Arc<TestNet>,
    cpu: u32,
    napi_threads: Vec<u32>,
    rx_packets: File,
    /// The sysfs files that were changed, each with the contents that it had before.
    changed: Vec<(String, String)>,
}

impl RxInterface {
    /// Sets up the receiving interface on the session's network ([`Session::network`]). `cpu`
    /// processes the packets of the interface.
    pub fn new(session: &Session, cpu: u32) -> Result<RxInterface> {
        let net = session.network()?;
        net.poll_with_napi()?;
        let files = format!("/sys/class/net/{}", net.interface);
        let rx_packets = net.receiver.enter(|| {
            testbed::mount_own_sysfs()?;
            File::open(format!("{files}/statistics/rx_packets"))
        })?;
        let (napi_threads, changed) = (Vec::new(), Vec::new());
        let mut rx = RxInterface { net, cpu, napi_threads, rx_packets, changed };
        rx.write(format!("{files}/threaded"), "1")?;
        rx.bind_threads()?;
        Ok(rx)
    }

    /// Finds the polling threads and binds them to the CPU. Call this again after attaching a
    /// program: the driver may restart its threads when a program is attached.
    pub fn bind_threads(&mut self) -> Result<()> {
        let prefix = format!("napi/{}-", self.net.interface);
        self.napi_threads = kernel_threads(&prefix)?;
        ensure!(!self.napi_threads.is_empty(), "no kernel thread is named {prefix}*");
        let mut threads = self.napi_threads.iter();
        threads.try_for_each(|thread| Ok(testbed::pin_thread(*thread, self.cpu)?))
    }

    /// Writes a sysfs file in the receiver's namespace. Dropping `self` restores the previous
    /// contents.
    fn write(&mut self, file: String, text: &str) -> Result<()> {
        let before = self.net.receiver.enter(|| {
            testbed::mount_own_sysfs()?;
            let before = fs::read_to_string(&file)?;
            fs::write(&file, text).map(|()| before)
        });
        self.changed.push((file.clone(), before.context(file)?));
        Ok(())
    }

    /// The number of packets that the interface has received. Packets that a contender dropped are
    /// included.
    pub fn packets(&self) -> Result<u64> {
        let mut text = [0; 32];
        let length = self.rx_packets.read_at(&mut text, 0)?;
        Ok(std::str::from_utf8(&text[..length])?.trim().parse()?)
    }

    /// The total run time of the polling threads, in nanoseconds.
    pub fn run_time(&self) -> Result<u64> {
        self.napi_threads.iter().map(|thread| run_time(*thread)).sum()
    }

    /// Configures receive packet steering (RPS), so that the network stack processes packets on
    /// `cpu`.
    pub fn set_rps(&mut self, cpu: u32) -> Result<()> {
        ensure!(cpu < 32, "CPU {cpu} does not fit: the benchmark writes CPU masks of 32 bits");
        let queues = format!("/sys/class/net/{}/queues", self.net.interface);
        let queues = self.net.receiver.enter(|| -> Result<Vec<String>> {
            testbed::mount_own_sysfs()?;
            let queues = fs::read_dir(queues)?.map(|queue| Ok(queue?.path().join("rps_cpus")));
            let queues: Vec<_> = queues.collect::<Result<_>>()?;
            let files = queues.iter().filter(|file| file.exists());
            Ok(files.map(|file| file.display().to_string()).collect())
        })?;
        let mask = format!("{:x}", 1u32 << cpu);
        queues.into_iter().try_for_each(|file| self.write(file, &mask))
    }

    /// Opens a socket on [`PORT`]. `SO_REUSEPORT` is set, so several sockets can share the port.
    pub fn socket(&self) -> Result<Socket> {
        self.net.receiver.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            testbed::set_receive_buffer(&socket, RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            socket.bind(&TestNet::destination(PORT).into())?;
            Ok(socket)
        })
    }
}

impl Drop for RxInterface {
    fn drop(&mut self) {
        let restore = || {
            testbed::mount_own_sysfs()?;
            self.changed.iter().try_for_each(|(file, before)| fs::write(file, before.trim()))
        };
        if let Err(error) = self.net.receiver.enter(restore) {
            eprintln!("cannot restore all of these sysfs files, {:?}: {error}", self.changed);
        }
    }
}
