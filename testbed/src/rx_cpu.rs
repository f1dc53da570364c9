//! Finds out on which CPU the kernel processed a datagram.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::socket::{select_in_group, set_receive_buffer};

/// The receive buffer of each socket in bytes.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// A reuseport group with one socket for each possible CPU. The kernel delivers a datagram to
/// the socket of the CPU that processes the datagram. A test therefore learns the CPU from the
/// receiving socket, and does not depend on the tables of the code under test.
#[derive(Debug)]
pub struct RxCpuSockets {
    sockets: Vec<UdpSocket>,
}

impl RxCpuSockets {
    /// Binds the sockets in the network namespace of the calling thread.
    pub fn bind(address: SocketAddr) -> Result<RxCpuSockets> {
        let mut sockets = Vec::new();
        for _ in 0..possible_cpus()? {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            // The buffer must hold the largest burst that a test sends.
            set_receive_buffer(&socket, RECEIVE_BUFFER).context("receive buffer")?;
            socket.bind(&address.into())?;
            sockets.push(UdpSocket::from(socket));
        }
        select_in_group(&sockets[0], &CURRENT_CPU).context("select the socket by CPU")?;
        Ok(RxCpuSockets { sockets })
    }

    /// Receives until `expected` datagrams have arrived, or until no datagram has arrived for
    /// 3 seconds. Calls `seen` with the CPU and the bytes of each datagram. Returns the number
    /// of datagrams.
    pub fn receive(&self, expected: usize, seen: impl FnMut(usize, &[u8])) -> Result<usize> {
        self.receive_until(expected, Duration::from_secs(3), seen)
    }

    /// Like [`RxCpuSockets::receive`], but without an expected number: receives until no datagram
    /// has arrived for 300 milliseconds. Use this method to find datagrams that should not arrive.
    pub fn receive_rest(&self, seen: impl FnMut(usize, &[u8])) -> Result<usize> {
        self.receive_until(usize::MAX, Duration::from_millis(300), seen)
    }

    fn receive_until(
        &self,
        expected: usize,
        timeout: Duration,
        mut seen: impl FnMut(usize, &[u8]),
    ) -> Result<usize> {
        let mut buffer = [0u8; 65_536];
        let (mut received, mut last) = (0, Instant::now());
        while received < expected && last.elapsed() < timeout {
            for (cpu, socket) in self.sockets.iter().enumerate() {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        seen(cpu, &buffer[..length]);
                        received += 1;
                        last = Instant::now();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(received)
    }
}

/// Classic BPF that returns the current CPU.
const CURRENT_CPU: [(u16, u32); 2] = [
    (
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32,
    ),
    ((libc::BPF_RET | libc::BPF_A) as u16, 0),
];

fn possible_cpus() -> Result<usize> {
    // SAFETY: the call has no precondition.
    usize::try_from(unsafe { libbpf_sys::libbpf_num_possible_cpus() }).context("possible CPUs")
}
