//! Waiting until packets that were under way have arrived.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ids::CpuId;
use crate::ingest::sockets::classic_bpf;
use crate::object::{LoadedXdp, redirect_program};
use crate::sys::{bpf, socket, thread};

/// The EtherType for local experiments (IEEE 802), which no other program listens for.
const ETHER_TYPE: u16 = 0x88b5;
/// The shortest Ethernet frame, without its checksum.
const FRAME: usize = 60;
const HEADER: usize = 14;

/// How long a CPU's queue is waited for when the kernel cannot tell that it is drained.
/// A queue holds some thousand packets, which take milliseconds.
const QUEUE_PATIENCE: Duration = Duration::from_millis(200);
/// How long one marker frame is waited for before another is sent.
const RESEND_AFTER: Duration = Duration::from_millis(20);
/// How long markers are tried. A queue that takes longer is stuck.
const MARKER_PATIENCE: Duration = Duration::from_secs(2);

/// Waits until every program that was running has ended, so that what it redirected lies
/// in its queue.
pub fn running_programs() {
    if thread::wait_for_running_programs().is_err() {
        // With CPUs that run without a tick the kernel cannot tell. A card's poll takes
        // some milliseconds.
        std::thread::sleep(QUEUE_PATIENCE);
    }
}

/// Waits until a CPU has processed what lay in its queue; false if it does not within the
/// patience.
pub fn queue(loaded: &LoadedXdp, cpu: CpuId) -> bool {
    // The CPU may reorder within one batch, so the marker is sent twice.
    match send_marker(loaded, cpu).and_then(|()| send_marker(loaded, cpu)) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => false,
        Err(error) => {
            // An old kernel, or no right to open a packet socket.
            tracing::debug!(%cpu, %error, "waiting for a queue by time");
            std::thread::sleep(QUEUE_PATIENCE);
            true
        }
    }
}

/// Puts a marker frame at the end of the queue and waits until it comes out: a packet
/// socket sees every frame that the CPU has taken. Needs Linux 5.18 and CAP_NET_RAW. The
/// frame belongs to the loopback interface and reaches no network.
fn send_marker(loaded: &LoadedXdp, cpu: CpuId) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);

    let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
    let listener = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    // The process id keeps apart markers of processes that drain at the same time.
    let number = u64::from(std::process::id()) << 32 | NUMBER.fetch_add(1, Ordering::Relaxed);
    socket::set_classic_filter(listener.as_fd(), &classic_bpf::marker_frame(number))?;
    listener.set_read_timeout(Some(RESEND_AFTER))?;
    let mut frame = [0; FRAME];
    frame[12..HEADER].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    let program = redirect_program(&loaded.cpu_map, cpu, loaded.multi_buffer)?;
    let deadline = Instant::now() + MARKER_PATIENCE;
    while Instant::now() < deadline {
        // Sent repeatedly, because a full queue drops it.
        if !bpf::run_live(program.as_fd(), &frame)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut seen = [0; FRAME];
        match io::Read::read(&mut &listener, &mut seen) {
            Ok(8..) if seen[..8] == frame[HEADER..HEADER + 8] => return Ok(()),
            Ok(_) => {} // a frame from before the filter was set
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
