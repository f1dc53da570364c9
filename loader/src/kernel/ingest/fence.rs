//! Waiting until packets that were on their way have arrived.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::libbpf::{self, socket};
use crate::kernel::object::Loaded;
use crate::kernel::probe;
use crate::kernel::sockets::classic;

/// The type of frames for local experiments (IEEE 802), which nobody else listens for.
const ETHER_TYPE: u16 = 0x88b5;
/// The shortest frame that Ethernet has, without its checksum.
const FRAME: usize = 60;
const HEADER: usize = 14;

/// How long a CPU's queue is given where the kernel does not tell that it is empty. It
/// holds some thousand packets, which take milliseconds.
const QUEUE_PATIENCE: Duration = Duration::from_millis(200);
/// How long one frame is waited for before another is sent.
const RESEND_AFTER: Duration = Duration::from_millis(20);
/// How long a fence may take; a queue that takes longer is stuck.
const FENCE_PATIENCE: Duration = Duration::from_secs(2);

/// Waits until every program that ran when this was called has ended, and what it
/// redirected lies in its queue.
pub fn running_programs() {
    if socket::wait_for_running_programs().is_err() {
        // CPUs without a tick: the kernel does not say. A card's poll takes some ms.
        std::thread::sleep(QUEUE_PATIENCE);
    }
}

/// Waits until a CPU has processed what lay in its queue when this was called; false if
/// it does not come to that.
pub fn queue(loaded: &Loaded, cpu: u32) -> bool {
    // Twice: of what it takes at once, the CPU may put our frame in front.
    match send_fence(loaded, cpu).and_then(|()| send_fence(loaded, cpu)) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => false,
        Err(error) => {
            // An old kernel, or no right to a packet socket.
            tracing::debug!(cpu, %error, "waiting for a queue by the clock");
            std::thread::sleep(QUEUE_PATIENCE);
            true
        }
    }
}

/// Puts a frame of our own at the end of the queue and waits until it comes out: a
/// packet socket sees every frame that the CPU has taken. Takes Linux 5.18 and
/// CAP_NET_RAW. The frame is of the loopback device and goes nowhere.
fn send_fence(loaded: &Loaded, cpu: u32) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);

    let protocol = Protocol::from(i32::from(ETHER_TYPE.to_be()));
    let listener = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    // Not a number that another process might use at the same time.
    let number = u64::from(std::process::id()) << 32 | NUMBER.fetch_add(1, Ordering::Relaxed);
    socket::set_classic_filter(listener.as_fd(), &mut classic::loopback_frame(number))?;
    listener.set_read_timeout(Some(RESEND_AFTER))?;
    let mut frame = [0; FRAME];
    frame[12..HEADER].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    frame[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
    let program = probe::redirect_program(&loaded.cpu_map, cpu, loaded.multi_buffer)?;
    let deadline = Instant::now() + FENCE_PATIENCE;
    while Instant::now() < deadline {
        // Again and again: a queue that is full drops it.
        if !libbpf::run_live(program.as_fd(), &frame)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut seen = [0; FRAME];
        match io::Read::read(&mut &listener, &mut seen) {
            Ok(8..) if seen[..8] == frame[HEADER..HEADER + 8] => return Ok(()),
            Ok(_) => {} // from before the filter was there
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
