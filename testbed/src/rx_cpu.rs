//! Who saw a datagram: the kernel, on which CPU.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// Bytes that a socket of a witness holds.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// Sockets on one port, one for each possible CPU, of which the kernel chooses
/// the one of the CPU that it runs on when it delivers. So the socket on which a
/// datagram arrives tells where it was processed, whatever any table says.
#[derive(Debug)]
pub struct RxCpuSockets {
    sockets: Vec<UdpSocket>,
}

impl RxCpuSockets {
    /// Binds in the calling thread's namespace.
    pub fn bind(address: SocketAddr) -> Result<RxCpuSockets> {
        let mut sockets = Vec::new();
        for _ in 0..possible_cpus()? {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            // Beyond net.core.rmem_max, so that no burst of a test overflows it.
            set_receive_buffer(&socket, RECEIVE_BUFFER).context("receive buffer")?;
            socket.bind(&address.into())?;
            sockets.push(UdpSocket::from(socket));
        }
        select_by_cpu(&sockets[0]).context("select the socket by CPU")?;
        Ok(RxCpuSockets { sockets })
    }

    /// Takes what arrives until `expected` datagrams are here, or nothing has come for
    /// seconds, and calls `seen` with each one's CPU and bytes. Gives their number.
    pub fn receive(&self, expected: usize, seen: impl FnMut(usize, &[u8])) -> Result<usize> {
        self.take(expected, Duration::from_secs(3), seen)
    }

    /// The same for what is too much: whatever arrives until nothing comes for a while.
    pub fn receive_rest(&self, seen: impl FnMut(usize, &[u8])) -> Result<usize> {
        self.take(usize::MAX, Duration::from_millis(300), seen)
    }

    fn take(
        &self,
        expected: usize,
        patience: Duration,
        mut seen: impl FnMut(usize, &[u8]),
    ) -> Result<usize> {
        let mut buffer = [0u8; 65_536];
        let (mut received, mut last) = (0, Instant::now());
        while received < expected && last.elapsed() < patience {
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

fn possible_cpus() -> Result<usize> {
    // SAFETY: reads a file once and remembers the number.
    usize::try_from(unsafe { libbpf_sys::libbpf_num_possible_cpus() }).context("possible CPUs")
}

/// Attaches `return current CPU` as the group's choice of a socket.
fn select_by_cpu(socket: &UdpSocket) -> io::Result<()> {
    let load_cpu = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
    let load_word = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    select_in_group(socket, &[(load_word, load_cpu), ((libc::BPF_RET | libc::BPF_A) as u16, 0)])
}

/// Has classic BPF without jumps choose among the sockets of a group: instructions with
/// what each is given. It sees a datagram's payload.
pub fn select_in_group(socket: &impl AsRawFd, program: &[(u16, u32)]) -> io::Result<()> {
    let instruction = |&(code, k): &(u16, u32)| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut code: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Gives a socket a receive buffer of so many bytes, whatever the system's limit is.
pub fn set_receive_buffer(socket: &impl AsRawFd, bytes: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SO_RCVBUFFORCE, &bytes)
}

fn set_option<Value>(socket: &impl AsRawFd, option: libc::c_int, value: &Value) -> io::Result<()> {
    // SAFETY: the value and its size are valid for the call; the kernel copies.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<Value>() as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
