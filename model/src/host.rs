//! The C program on this machine, without root and without a kernel.

use std::ffi::c_ulong;
use std::net::IpAddr;

use crate::model::{Answer, Limit, Model, Reason, Verdict};

/// As in `laminar_abi.h`, on which nothing here depends but by these.
const MOST_PORTS: usize = 16;
const LISTS: u32 = 1;
const LIMIT: u32 = 2;
const SAMPLES: u32 = 4;
const PORTS: u32 = 8;

#[repr(C)]
struct Settings {
    partitions: u32,
    features: u32,
}

#[repr(C)]
struct Controls {
    ports: [u16; MOST_PORTS],
    interval: u64,
    tolerance: u64,
    sample_every: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Source {
    family: u32,
    address: [u8; 16],
}

#[repr(C)]
struct Prefix {
    length: u32,
    source: Source,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    source: Source,
    full_at: u64,
}

/// `HOST_MOST_SOURCES` of `program.h`.
const MOST_SOURCES: usize = 64;

#[repr(C)]
#[derive(Clone)]
struct Sources {
    count: u32,
    entries: [Entry; MOST_SOURCES],
}

const NOBODY: Sources = Sources {
    count: 0,
    entries: [Entry { source: Source { family: 0, address: [0; 16] }, full_at: 0 }; MOST_SOURCES],
};

#[repr(C)]
struct Config {
    settings: Settings,
    controls: Controls,
    queues: *const u16,
    deny: *const Prefix,
    allow: *const Prefix,
    denied: u32,
    allowed: u32,
    now: u64,
    sources: *mut Sources,
}

#[repr(C)]
struct HostAnswer {
    verdict: u32,
    cpu: u32,
    counted: u32,
    reason: u32,
    bytes: u64,
    sampled: u32,
    wrong: u32,
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

/// The program, configured as a model is, with buckets of its own for each of its forms.
pub struct Program {
    queues: Vec<u16>,
    ports: Vec<u16>,
    lists: Option<(Vec<Prefix>, Vec<Prefix>)>,
    limit: Option<Limit>,
    samples: bool,
    whole: Sources,
    split: Sources,
}

/// The program's answer, and the bytes that it counted.
pub type Counted = Result<(Answer, u64), String>;

impl Program {
    /// Every CPU of the model's owners has a queue. With samples each drop is shown, and
    /// checked.
    pub fn like(model: &Model, samples: bool) -> Program {
        let queue = |owner: &Option<u32>| owner.map_or(0, |cpu| cpu as u16 + 1);
        let list = |prefixes: &[crate::Prefix]| prefixes.iter().map(prefix).collect();
        Program {
            queues: model.owners.iter().map(queue).collect(),
            ports: model.ports.clone(),
            lists: model.lists.as_ref().map(|lists| (list(&lists.deny), list(&lists.allow))),
            limit: model.limit,
            samples,
            whole: NOBODY,
            split: NOBODY,
        }
    }

    /// Has every bucket full again.
    pub fn forget(&mut self) {
        (self.whole.count, self.split.count) = (0, 0);
    }

    /// The answer for a frame in one buffer.
    pub fn judge(&mut self, frame: &[u8], now: u64) -> Counted {
        let mut sources = self.whole.clone();
        let answer = self.run(host_judge, frame, frame.len(), now, &mut sources);
        self.whole = sources;
        answer
    }

    /// The answer of the program for packets in several buffers, of which the first holds
    /// so many bytes.
    pub fn judge_split(&mut self, frame: &[u8], first: usize, now: u64) -> Counted {
        let mut sources = self.split.clone();
        let answer = self.run(host_judge_frags, frame, first.min(frame.len()), now, &mut sources);
        self.split = sources;
        answer
    }

    fn run(
        &self,
        judge: Judge,
        frame: &[u8],
        first: usize,
        now: u64,
        sources: &mut Sources,
    ) -> Counted {
        let mut ports = [0; MOST_PORTS];
        for (to, port) in ports.iter_mut().zip(&self.ports) {
            *to = port.to_be();
        }
        let (interval, tolerance) =
            self.limit.map_or((0, 0), |limit| (limit.interval, (limit.burst - 1) * limit.interval));
        let features = [
            (self.lists.is_some(), LISTS),
            (self.limit.is_some(), LIMIT),
            (self.samples, SAMPLES),
            (self.ports.len() > 1, PORTS),
        ];
        let features = features.iter().filter(|(is_on, _)| *is_on).map(|(_, bit)| bit).sum();
        let (deny, allow) = self.lists.as_ref().map_or((&[][..], &[][..]), |(d, a)| (d, a));
        let config = Config {
            settings: Settings { partitions: self.queues.len() as u32, features },
            controls: Controls {
                ports,
                interval,
                tolerance,
                sample_every: self.samples.into(),
                reserved: 0,
            },
            queues: self.queues.as_ptr(),
            deny: deny.as_ptr(),
            allow: allow.as_ptr(),
            denied: deny.len() as u32,
            allowed: allow.len() as u32,
            now,
            sources,
        };
        // SAFETY: the lengths are those of what they stand beside, and the table has an
        // entry for each partition; all of it outlives the call and is only read, but for
        // the sources, which are borrowed for it.
        let answer = unsafe {
            let (start, length) = (frame.as_ptr(), frame.len() as c_ulong);
            judge(start, first as c_ulong, start, length, &config)
        };
        let shown = self.samples && answer.verdict == 1;
        if answer.wrong != 0 || answer.sampled != u32::from(shown) {
            let HostAnswer { wrong, sampled, .. } = answer;
            return Err(format!("{sampled} samples, and what is wrong is {wrong:#x}"));
        }
        Ok((answer_of(&answer)?, answer.bytes))
    }
}

fn prefix((address, length): &crate::Prefix) -> Prefix {
    let (mut bytes, family) = ([0; 16], if address.is_ipv4() { 4 } else { 6 });
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    Prefix { length: 32 + u32::from(*length), source: Source { family, address: bytes } }
}

/// By the numbers of `laminar_abi.h`, and of the kernel for verdicts.
fn answer_of(answer: &HostAnswer) -> Result<Answer, String> {
    let &HostAnswer { verdict, cpu, counted, reason, .. } = answer;
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
        9 => Some(Reason::Denied),
        10 => Some(Reason::Rate),
        u32::MAX => None,
        _ => return Err(format!("reason {reason}")),
    };
    match counted {
        0 | 1 => Ok(Answer { verdict, reason }),
        _ => Err(format!("it counted {counted} times")),
    }
}
