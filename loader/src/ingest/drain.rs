//! Waiting until the kernel has delivered the packets that it was processing.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ids::CpuId;
use crate::ingest::sockets::classic_bpf;
use crate::object::{LoadedXdp, redirect_program};
use crate::sys::{bpf, socket, thread};

/// An EtherType that IEEE 802 reserves for local experiments. No other program listens for it.
const ETHER_TYPE: u16 = 0x88b5;
/// The length in bytes of the shortest Ethernet frame, without its checksum.
const FRAME: usize = 60;
const HEADER: usize = 14;

/// How long to wait for a CPU to drain its queue, if the kernel cannot report that the queue is
/// drained. A queue holds some thousand packets, and a CPU processes some thousand packets within
/// milliseconds.
const QUEUE_PATIENCE: Duration = Duration::from_millis(200);
/// How long to wait for one marker frame before sending another.
const RESEND_AFTER: Duration = Duration::from_millis(20);
/// How long to keep sending marker frames in all. A queue that is still not drained is stuck.
const MARKER_PATIENCE: Duration = Duration::from_secs(2);

/// Waits until every BPF program that is running now, on any CPU, has ended. By then the packets
/// that these programs redirected are in their queues.
pub fn running_programs() {
    if thread::wait_for_running_programs().is_err() {
        // The kernel refuses membarrier(2) if CPUs run without a tick (`nohz_full`). Sleeping is
        // enough in that case: the kernel runs the programs while it polls a network card, and one
        // poll takes some milliseconds.
        std::thread::sleep(QUEUE_PATIENCE);
    }
}

/// Waits until a CPU has processed the packets that are in its queue now. Returns false if the CPU
/// needs longer than `MARKER_PATIENCE`.
pub fn queue(loaded: &LoadedXdp, cpu: CpuId) -> bool {
    // The CPU may reorder packets within one batch, so the first marker may overtake packets. The
    // second marker is sent after the first marker has arrived, so the second marker is in a later
    // batch.
    match send_marker(loaded, cpu).and_then(|()| send_marker(loaded, cpu)) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => false,
        Err(error) => {
            // The kernel is older than 5.18, or the process lacks CAP_NET_RAW.
            tracing::debug!(%cpu, %error, "cannot check a queue with a marker; waiting instead");
            std::thread::sleep(QUEUE_PATIENCE);
            true
        }
    }
}

/// Puts a marker frame at the end of the CPU's queue, and waits until a packet socket receives the
/// frame. The CPU has then taken the frame out of the queue. Needs Linux 5.18 and CAP_NET_RAW. The
/// frame belongs to the loopback interface, so the frame reaches no network.
fn send_marker(loaded: &LoadedXdp, cpu: CpuId) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);

    let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
    let listener = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    // Several processes may drain at once; the process id tells their markers apart.
    let number = u64::from(std::process::id()) << 32 | NUMBER.fetch_add(1, Ordering::Relaxed);
    socket::set_classic_filter(listener.as_fd(), &classic_bpf::marker_frame(number))?;
    listener.set_read_timeout(Some(RESEND_AFTER))?;
    let mut frame = [0; FRAME];
    frame[12..HEADER].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    let program = redirect_program(&loaded.cpu_map, cpu, loaded.multi_buffer)?;
    let deadline = Instant::now() + MARKER_PATIENCE;
    while Instant::now() < deadline {
        // The frame is sent repeatedly, because a full queue drops it.
        if !bpf::run_live(program.as_fd(), &frame)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut seen = [0; FRAME];
        match io::Read::read(&mut &listener, &mut seen) {
            Ok(8..) if seen[..8] == frame[HEADER..HEADER + 8] => return Ok(()),
            Ok(_) => {} // a frame that arrived before the filter was set
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
