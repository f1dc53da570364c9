//! The BPF program, compiled for this machine. The compiled program needs no root and no BPF in the
//! kernel.

mod ffi;

use std::net::IpAddr;

use laminar_xdp_prebuilt::abi;

use self::ffi::{
    HOST_NO_REASON, HostAnswer, HostConfig, HostPacket, HostSources, Judge, check_layout,
    host_judge, host_judge_frags, host_verdict_of,
};
use crate::model::{Answer, Limit, Model, Reason, Verdict};

/// Returns the verdict that the program gives for a reason. `reason` is a number of
/// `laminar_abi.h`, and the verdict is a number of the kernel's `enum xdp_action`.
pub fn verdict_of(reason: u32) -> i32 {
    // SAFETY: the C function accepts every number and reads no memory.
    unsafe { host_verdict_of(reason) }
}

/// The program with the configuration of a model. The program has two forms, one for packets
/// in one buffer and one for split packets, and each form has its own buckets.
pub struct Program {
    settings: abi::laminar_settings,
    controls: abi::laminar_controls,
    queues: Vec<u16>,
    deny: Vec<abi::laminar_prefix>,
    allow: Vec<abi::laminar_prefix>,
    whole_sources: HostSources,
    split_sources: HostSources,
}

/// The program's answer and the number of bytes that it counted. The error describes a mistake
/// of the program.
pub type Counted = Result<(Answer, u64), String>;

impl Program {
    /// Makes a program with the configuration of `model`. Every CPU that owns a partition has
    /// a queue. If `has_samples` is set, the program samples each dropped packet.
    ///
    /// # Panics
    /// Panics if the Rust declarations of the C structs differ from the C declarations, or if the
    /// model has another number of owners than of partitions.
    pub fn configured_as(model: &Model, has_samples: bool) -> Program {
        check_layout();
        let queue = |owner: &Option<u32>| owner.map_or(0, |cpu| cpu as u16 + 1);
        assert_eq!(model.owners.len(), model.settings.partitions as usize);
        let lists = model.lists.iter();
        Program {
            settings: settings(model, has_samples),
            controls: controls(model, has_samples),
            queues: model.owners.iter().map(queue).collect(),
            deny: lists.clone().flat_map(|lists| &lists.deny).map(prefix).collect(),
            allow: lists.flat_map(|lists| &lists.allow).map(prefix).collect(),
            whole_sources: HostSources::EMPTY,
            split_sources: HostSources::EMPTY,
        }
    }

    /// Fills every bucket.
    pub fn refill_buckets(&mut self) {
        (self.whole_sources.count, self.split_sources.count) = (0, 0);
    }

    /// Judges a frame that is in one buffer.
    pub fn judge(&mut self, frame: &[u8], now: u64) -> Counted {
        let mut sources = self.whole_sources.clone();
        let answer = self.run(host_judge, frame, frame.len(), now, &mut sources);
        self.whole_sources = sources;
        answer
    }

    /// Judges a frame with the form of the program for split packets. The first buffer holds
    /// `first_len` bytes of the frame.
    pub fn judge_split(&mut self, frame: &[u8], first_len: usize, now: u64) -> Counted {
        let mut sources = self.split_sources.clone();
        let first_len = first_len.min(frame.len());
        let answer = self.run(host_judge_frags, frame, first_len, now, &mut sources);
        self.split_sources = sources;
        answer
    }

    fn run(
        &self,
        judge: Judge,
        frame: &[u8],
        first_len: usize,
        now: u64,
        sources: &mut HostSources,
    ) -> Counted {
        let Program { deny, allow, .. } = self;
        let config = HostConfig {
            settings: self.settings,
            controls: self.controls,
            queues: self.queues.as_ptr(),
            deny: deny.as_ptr(),
            allow: allow.as_ptr(),
            deny_count: deny.len() as u32,
            allow_count: allow.len() as u32,
            now,
            sources,
        };
        let packet = HostPacket {
            first: frame.as_ptr(),
            first_len: first_len as u64,
            bytes: frame.as_ptr(),
            len: frame.len() as u64,
        };
        let mut answer = HostAnswer::default();
        // SAFETY: `check_layout` has compared the structs with their C declarations. Each
        // pointer comes from a slice and is passed with the slice's length; the length of
        // `queues` is `settings.partitions`. The slices outlive the call. C writes only to
        // `sources` and `answer`, which are borrowed mutably.
        unsafe { judge(&packet, &config, &mut answer) };

        let is_dropped = answer.verdict == 1;
        if answer.faults != 0 {
            let faults = answer.faults;
            return Err(format!("faults {faults:#x} (enum host_fault in model/host/program.h)"));
        }
        if answer.sampled != u32::from(self.controls.sample_every != 0 && is_dropped) {
            return Err(format!("{} samples with verdict {}", answer.sampled, answer.verdict));
        }
        Ok((answer_of(&answer)?, answer.bytes))
    }
}

fn settings(model: &Model, has_samples: bool) -> abi::laminar_settings {
    let features = [
        (model.lists.is_some(), abi::LAMINAR_FEATURE_LISTS),
        (model.limit.is_some(), abi::LAMINAR_FEATURE_LIMIT),
        (has_samples, abi::LAMINAR_FEATURE_SAMPLES),
        (model.ports.len() > 1, abi::LAMINAR_FEATURE_PORTS),
    ];
    let features = features.iter().filter(|(is_on, _)| *is_on).map(|(_, bit)| bit).sum();
    // The configured slot is the last one, and only that slot is read. If the program ignored
    // the configured slot, it would count in slot 0, and the test would see uncounted packets.
    let interface_slot = abi::LAMINAR_MAX_INTERFACES - 1;
    abi::laminar_settings { features, interface_slot, ..model.settings }
}

fn controls(model: &Model, has_samples: bool) -> abi::laminar_controls {
    let mut controls =
        abi::laminar_controls { sample_every: has_samples.into(), ..Default::default() };
    for (to, port) in controls.ports.iter_mut().zip(&model.ports) {
        *to = port.to_be();
    }
    if let Some(Limit { interval, burst }) = model.limit {
        (controls.interval, controls.tolerance) = (interval, (burst - 1) * interval);
    }
    controls
}

fn prefix((address, length): &crate::Prefix) -> abi::laminar_prefix {
    let (mut bytes, family) = ([0; 16], if address.is_ipv4() { 4 } else { 6 });
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    let source = abi::laminar_source { family, address: bytes };
    abi::laminar_prefix { length: 32 + u32::from(*length), source }
}

/// Translates the two numbers of an answer: the kernel's number of the verdict, and the number
/// that `laminar_abi.h` gives the reason.
fn answer_of(answer: &HostAnswer) -> Result<Answer, String> {
    let &HostAnswer { verdict, cpu, counted, reason, .. } = answer;
    let verdict = match verdict {
        1 => Verdict::Drop,
        2 => Verdict::Pass,
        4 => Verdict::Redirect(cpu),
        _ => return Err(format!("verdict {verdict}")),
    };
    let reason = match reason {
        abi::LAMINAR_REASON_INVALID => Some(Reason::Invalid),
        abi::LAMINAR_REASON_PASSED_FRAGMENT => Some(Reason::Fragment),
        abi::LAMINAR_REASON_PASSED_NO_QUEUE => Some(Reason::NoQueue),
        abi::LAMINAR_REASON_DROPPED_SHORT => Some(Reason::Short),
        abi::LAMINAR_REASON_DROPPED_MAGIC => Some(Reason::Magic),
        abi::LAMINAR_REASON_DROPPED_LENGTH => Some(Reason::Length),
        abi::LAMINAR_REASON_REDIRECTED => Some(Reason::Redirected),
        abi::LAMINAR_REASON_DROPPED_DENIED => Some(Reason::Denied),
        abi::LAMINAR_REASON_DROPPED_RATE => Some(Reason::Rate),
        HOST_NO_REASON => None,
        _ => return Err(format!("reason {reason}")),
    };
    match counted {
        0 | 1 => Ok(Answer { verdict, reason }),
        _ => Err(format!("one packet was counted {counted} times")),
    }
}
