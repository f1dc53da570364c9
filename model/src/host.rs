//! The C program on this machine, without root and without a kernel.

use std::ffi::c_ulong;

use crate::model::{Answer, Model, Reason, Verdict};

#[repr(C)]
struct Config {
    port: u16,
    partitions: u32,
    queues: *const u16,
}

#[repr(C)]
struct HostAnswer {
    verdict: u32,
    cpu: u32,
    counted: u32,
    reason: u32,
}

type Judge =
    unsafe extern "C" fn(*const u8, c_ulong, *const u8, c_ulong, *const Config) -> HostAnswer;

unsafe extern "C" {
    fn host_judge(
        first: *const u8,
        first_len: c_ulong,
        packet: *const u8,
        len: c_ulong,
        config: *const Config,
    ) -> HostAnswer;
    fn host_judge_frags(
        first: *const u8,
        first_len: c_ulong,
        packet: *const u8,
        len: c_ulong,
        config: *const Config,
    ) -> HostAnswer;
}

/// The program, configured as a model is.
pub struct Program {
    port: u16,
    queues: Vec<u16>,
}

impl Program {
    /// Every CPU of the model's owners has a queue.
    pub fn like(model: &Model) -> Program {
        let queue = |owner: &Option<u32>| owner.map_or(0, |cpu| cpu as u16 + 1);
        Program { port: model.port, queues: model.owners.iter().map(queue).collect() }
    }

    /// The answer for a frame in one buffer.
    pub fn judge(&self, frame: &[u8]) -> Result<Answer, String> {
        self.run(host_judge, frame, frame.len())
    }

    /// The answer of the program for packets in several buffers, of which the first holds
    /// so many bytes.
    pub fn judge_split(&self, frame: &[u8], first: usize) -> Result<Answer, String> {
        self.run(host_judge_frags, frame, first.min(frame.len()))
    }

    fn run(&self, judge: Judge, frame: &[u8], first: usize) -> Result<Answer, String> {
        let config = Config {
            port: self.port,
            partitions: self.queues.len() as u32,
            queues: self.queues.as_ptr(),
        };
        // SAFETY: the lengths are those of what they stand beside, and the table has an
        // entry for each partition; all of it outlives the call and is only read.
        let answer = unsafe {
            let (start, length) = (frame.as_ptr(), frame.len() as c_ulong);
            judge(start, first as c_ulong, start, length, &config)
        };
        answer_of(&answer)
    }
}

/// By the numbers of `laminar_abi.h`, and of the kernel for verdicts.
fn answer_of(answer: &HostAnswer) -> Result<Answer, String> {
    let &HostAnswer { verdict, cpu, counted, reason } = answer;
    let verdict = match verdict {
        1 => Verdict::Drop,
        2 => Verdict::Pass,
        4 => Verdict::Redirect(cpu),
        _ => return Err(format!("verdict {verdict}")),
    };
    let reason = match reason {
        0 => Some(Reason::Invalid),
        1 => Some(Reason::Fragment),
        2 => Some(Reason::NoQueue),
        3 => Some(Reason::Short),
        4 => Some(Reason::Magic),
        5 => Some(Reason::Length),
        6 => Some(Reason::Redirected),
        u32::MAX => None,
        _ => return Err(format!("reason {reason}")),
    };
    match counted {
        0 | 1 => Ok(Answer { verdict, reason }),
        _ => Err(format!("it counted {counted} times")),
    }
}
