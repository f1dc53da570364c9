//! A new process takes over from an old one. The old process calls `offer` and `hand_over`;
//! the new one calls `take_over`. They exchange these messages over a Unix stream:
//!
//! ```text
//! new: terms                          its configuration
//! old: its state, then descriptors    see `state`
//! new: ready                          its own programs are attached
//! old: yours                          it has stopped reading the sockets
//! new: mine                           it starts to read the sockets
//! ```
//!
//! Instead of any of these messages, a process may send "refused" and a reason.
//!
//! Until the new process sends "mine", the old process can continue to receive, even if the new
//! process dies: both processes hold all descriptors, and the programs of both use the same
//! tables.

mod channel;
mod state;

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use laminar_xdp_prebuilt::abi;

use crate::artifact::Artifact;
use crate::config::{IngestConfig, XdpConfig};
use crate::ingest::handover::channel::{Channel, failed_to};
use crate::ingest::handover::state::State;
use crate::ingest::mailbox::{Mailbox, Mailboxes};
use crate::ingest::ownership::Ownership;
use crate::ingest::sockets::{SocketGroup, selector};
use crate::ingest::{Ingest, Parts};
use crate::object::{KernelFeatures, SharedMaps, settings};
use crate::partitions::Partitions;
use crate::report::XdpError;
use crate::sync::lock;
use crate::xdp::{Reinstatement, RunningProgram, XdpLoader};

/// How far a hand-over to another process has come.
#[derive(Debug)]
pub enum Stage {
    /// No hand-over is in progress.
    Serving,
    /// Another process prepares to take over. No partition moves.
    Offered,
    /// An offer was withdrawn, and this process's programs were attached again. A refused process
    /// that was stopped or slow may have attached its own programs after that, so this stage
    /// keeps the handles to attach this process's programs once more.
    Withdrawn(OwnPrograms),
    /// This process has ended its ingest.
    Closed,
}

/// The part of the configuration that must be equal in both processes.
pub fn terms(address: IpAddr, port: u16, partitions: &Partitions) -> String {
    format!(
        "laminar-xdp hand-over 1, ABI {}, port {port} on {address}, {} partitions, CPUs {:?}",
        abi::LAMINAR_ABI_VERSION,
        partitions.count(),
        partitions.cpus()
    )
}

/// A process that is ready to take over ([`Ingest::offer`]). Dropping the offer ends the
/// hand-over: this process's programs are attached again, the other process is refused, and this
/// process's ingest continues. Dropping the offer may block for up to 30 seconds if the other
/// process does not read the stream. Before Linux 5.9, drop the offer in the network namespace of
/// the ingest. The port stays in use as long as the offer exists.
#[derive(Debug)]
#[must_use = "dropping the offer refuses the other process"]
pub struct Offer<'a> {
    channel: Channel<'a>,
    stage: Arc<Mutex<Stage>>,
    /// `None` once the offer has ended.
    programs: Option<OwnPrograms>,
    is_accepted: bool,
    /// How long the other process may take to answer "yours".
    patience: Duration,
}

/// How long nobody receives, at most, if the other process does not answer "yours". A process that
/// runs answers within a millisecond.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Handles to attach this process's programs again, in case the other process has replaced them
/// with its own programs.
#[derive(Debug)]
pub struct OwnPrograms {
    sockets: Arc<SocketGroup>,
    xdp: Option<Reinstatement>,
}

impl Stage {
    /// Fails if another process is taking over. After a withdrawn offer, first attaches this
    /// process's programs once more.
    pub fn check_serving(&mut self) -> Result<(), XdpError> {
        if let Stage::Withdrawn(programs) = self {
            programs.put_back();
            *self = Stage::Serving;
        }
        match self {
            Stage::Serving => Ok(()),
            _ => Err(XdpError::HandOverInProgress),
        }
    }
}

impl Offer<'_> {
    /// Sets how long [`Ingest::hand_over`] waits for the other process's answer: 1 second unless
    /// this is called, and at most 30 seconds. Nobody receives during this time; datagrams wait in
    /// the sockets. If the other process does not answer in time, for example because it was
    /// stopped, this process continues. The other process then cannot take over any more.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl OwnPrograms {
    fn put_back(&self) {
        let sockets = self.sockets.reinstate();
        let xdp = self.xdp.as_ref().map_or(Ok(()), Reinstatement::run);
        for error in [sockets.err(), xdp.err()].into_iter().flatten() {
            tracing::warn!(%error, "cannot attach a program again that another process replaced");
        }
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if self.is_accepted {
            return;
        }
        let mut stage = lock(&self.stage);
        // If the ingest was closed meanwhile, its programs are detached and must stay detached.
        if let (Stage::Offered, Some(programs)) = (&*stage, self.programs.take()) {
            programs.put_back();
            *stage = Stage::Withdrawn(programs);
        }
        drop(stage);
        // The refusal is sent last: when the other process reads it, that process attaches this
        // process's program again as well, and the two attempts would race.
        self.channel.refuse("the offer was withdrawn");
    }
}

/// A hand-over that failed. It holds the ingest, which continues to work.
#[derive(Debug)]
#[non_exhaustive]
pub struct HandOverError {
    /// The ingest. Take its receivers again to continue.
    pub ingest: Box<Ingest>,
    /// Why the hand-over failed.
    pub error: XdpError,
}

impl fmt::Display for HandOverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the other process did not take over; this process can continue")
    }
}

impl Error for HandOverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

impl Ingest {
    /// Takes over from a running process, which calls [`Ingest::offer`] and
    /// [`Ingest::hand_over`] with the other end of the stream.
    ///
    /// This process receives the sockets of the running process with all datagrams that wait in
    /// them, the owners of the partitions, the counters, and the attachment to the interface.
    /// This process's XDP program replaces the running program in one step. No datagram is lost
    /// or reordered. Both processes must be configured for the same port, address, partitions and
    /// CPUs, and be built with objects of the same ABI version. The running process must belong
    /// to root or to this process's user.
    ///
    /// Some properties stay as the running process has them, even if this configuration differs:
    /// the sizes of the receive buffers and of the CPU queues, the XDP mode, and whether XDP
    /// steers. The running program and its port stay if both conditions hold: none of this
    /// process's objects can replace the program, and this configuration has no limits, lists,
    /// samples or further ports.
    ///
    /// This configuration decides whether XDP is used at all. If only the running process uses
    /// XDP, its program is detached, its counters end, and datagrams in its CPU queues may be
    /// reordered. If only this process uses XDP, it attaches its program as [`Ingest::open`]
    /// does, before the running process has handed over. Many network cards lose packets for a
    /// moment when a program is attached.
    ///
    /// Blocks until the running process has handed over. Each step of that process may take at
    /// most 30 seconds.
    ///
    /// # Errors
    /// [`XdpError::HandOver`] if the processes are configured differently or one of them fails;
    /// otherwise the errors of [`Ingest::open`]. This process does not take over if its
    /// objects cannot be trusted, or if they cannot replace the running ones and the exception
    /// above does not apply. [`XdpConfig::fallback_on_error`] covers only the case that this
    /// process alone uses XDP. After an error the running process continues, and the
    /// stream is shut down.
    pub fn take_over(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        running: &UnixStream,
    ) -> Result<Ingest, XdpError> {
        let channel = Channel::new(running)?;
        let take_over = || {
            config.validate()?;
            xdp_config.validate()?;
            let partitions = Partitions::new(xdp_config.partitions, &config.cpus)?;
            let prepared = Self::prepare(config, xdp_config, partitions, &channel)?;
            channel.send("ready")?;
            channel.expect("yours")?;
            channel.send("mine")?;
            Ok(prepared)
        };
        let (mut ingest, unused) = take_over().inspect_err(|error| channel.refuse_for(error))?;
        if let Some(xdp) = &mut ingest.xdp {
            xdp.take_ownership();
        }
        if let Some(mut program) = unused {
            program.attachment.take_ownership(); // so that dropping it detaches
        }
        Ok(ingest)
    }

    /// Receives the state and attaches this process's programs. Dropping the result attaches the
    /// running process's XDP program again; the running process restores its socket programs
    /// itself when it drops its offer. The second value is the running process's XDP program. It
    /// is `Some` only if this process does not use XDP.
    fn prepare(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        partitions: Partitions,
        channel: &Channel,
    ) -> Result<(Ingest, Option<RunningProgram>), XdpError> {
        let artifact = Artifact::find(&xdp_config.bpf_object_path)?;
        let terms = terms(config.address, xdp_config.port, &partitions);
        channel.send(&terms)?;
        let state = state::receive(channel, &partitions, xdp_config.port)?;
        let State { sockets, drops_before, owners, loaded_sockets, xdp } = state;
        let mailboxes = Arc::new(Mailboxes::new(&sockets)?);
        let ownership = Arc::new(Ownership::new(owners));
        let partitions = Arc::new(partitions);
        let mut features = KernelFeatures::default();
        let settings = settings(xdp_config, partitions.count());
        let selector =
            selector::take_over(&settings, &partitions, &artifact, &mut features, loaded_sockets);
        // This process may have been stopped for a while. If the other process has withdrawn its
        // offer meanwhile, it serves again, and its programs must not be replaced.
        channel.check_open()?;
        let group =
            SocketGroup::open(sockets, selector, &settings, &partitions, Some(drops_before))?;
        let mut unused = None;
        channel.check_open()?;
        let loader = match xdp {
            former if !xdp_config.enabled => {
                unused = former;
                Err(XdpError::Disabled)
            }
            Some(program) => {
                let interface = &program.attachment.interface().name;
                if *interface != xdp_config.interface {
                    return Err(XdpError::hand_over(format!(
                        "the running process has XDP on {interface}, this one is configured for \
                         {}; stop the running process, then start this one",
                        xdp_config.interface
                    )));
                }
                let partitions = partitions.clone();
                Ok(XdpLoader::take_over(xdp_config, partitions, artifact, &mut features, program)?)
            }
            None => {
                let table = group.table().map(|table| (abi::LAMINAR_MAP_STEERING, table));
                let shared: SharedMaps = table.as_slice();
                let partitions = partitions.clone();
                XdpLoader::load(xdp_config, partitions, artifact, &mut features, shared)
            }
        };
        let parts = Parts { sockets: group, ownership, mailboxes, partitions, terms };
        Ok((Self::assemble(loader, parts, xdp_config)?, unused))
    }

    /// Sends the state of this ingest to a process that calls [`Ingest::take_over`], and waits
    /// until that process is ready. Each step of that process, such as loading its programs, may
    /// take at most 30 seconds. During this call and until [`Ingest::hand_over`], this ingest
    /// continues to work, except that no partition moves.
    ///
    /// Next, stop every receiver's thread, call [`crate::Receiver::drain`] on each receiver, drop
    /// the receivers, and call [`Ingest::hand_over`]. The new process then receives the datagrams
    /// that wait in the sockets. Until the call of [`Ingest::hand_over`], dropping the offer
    /// withdraws it.
    ///
    /// # Errors
    /// [`XdpError::HandOver`] if the other process has a different configuration, belongs to
    /// another user, or fails. [`XdpError::HandOverInProgress`] while another process is
    /// taking over, [`XdpError::NotMoved`] if an unfinished move of a partition cannot be
    /// completed.
    pub fn offer<'a>(&self, successor: &'a UnixStream) -> Result<Offer<'a>, XdpError> {
        let channel = Channel::new(successor)?;
        let wanted = channel.receive()?;
        let checked = self.check_offer(&wanted).and_then(|()| self.start_offer());
        let programs = checked.inspect_err(|error| channel.refuse_for(error))?;
        // From now on an error drops the offer, which withdraws it.
        let stage = self.stage.clone();
        let (programs, patience) = (Some(programs), ANSWER_PATIENCE);
        let offer = Offer { channel, stage, programs, is_accepted: false, patience };
        let xdp = self.xdp.as_ref().map(XdpLoader::program);
        state::send(&offer.channel, self.ownership.owners(), &self.sockets, xdp)?;
        offer.channel.expect("ready")?;
        Ok(offer)
    }

    fn check_offer(&self, wanted: &str) -> Result<(), XdpError> {
        if wanted == self.terms {
            return Ok(());
        }
        let own = &self.terms;
        Err(XdpError::hand_over(format!("the other process wants {wanted:?}, this is {own:?}")))
    }

    /// Enters [`Stage::Offered`]. Returns the handles that attach this process's programs
    /// again if the offer is withdrawn.
    fn start_offer(&self) -> Result<OwnPrograms, XdpError> {
        let mut stage = lock(&self.stage);
        stage.check_serving()?;
        self.complete_moves()?;
        let xdp = match &self.xdp {
            Some(xdp) => {
                let reinstatement = xdp.program().attachment.reinstatement();
                reinstatement.map_err(failed_to("duplicate a descriptor"))?
            }
            None => None,
        };
        *stage = Stage::Offered;
        Ok(OwnPrograms { sockets: self.sockets.clone(), xdp })
    }

    /// Lets the other process start to receive, and waits at most 1 second ([`Offer::patience`])
    /// until that process confirms that it starts. The ingest of this process ends without
    /// detaching XDP, and the sockets stay open in the other process.
    ///
    /// # Errors
    /// Fails if a receiver is in use, if a mailbox holds datagrams that no receiver has handled,
    /// or if the other process has failed. [`HandOverError`] holds the ingest and the reason. To
    /// continue in this process, take the receivers again.
    pub fn hand_over(mut self, offer: Offer<'_>) -> Result<(), HandOverError> {
        match self.try_hand_over(offer) {
            Ok(()) => Ok(()),
            Err(error) => Err(HandOverError { ingest: Box::new(self), error }),
        }
    }

    fn try_hand_over(&mut self, mut offer: Offer<'_>) -> Result<(), XdpError> {
        if !Arc::ptr_eq(&offer.stage, &self.stage) {
            return Err(XdpError::hand_over("the offer belongs to another ingest"));
        }
        // All receivers are checked before any mailbox: a receiver that is in use may still hand
        // on a datagram to a mailbox that was already found empty.
        self.check_mailboxes("is in use", |mailbox| !mailbox.is_in_use())?;
        self.check_mailboxes("left datagrams unhandled", Mailbox::is_empty)?;
        let channel = &offer.channel;
        let patience = offer.patience;
        let expect = || channel.expect_within("mine", patience);
        let answer = channel.send("yours").and_then(|()| expect());
        // Exactly one process may receive. The other process starts once it has sent "mine". After
        // an error, this process closes the stream, so that the other process can no longer send
        // "mine". A "mine" that was sent before the close has arrived and is read here.
        let answer = answer.or_else(|error| {
            channel.close();
            expect().map_err(|_| error)
        });
        answer?;
        offer.is_accepted = true;
        if let Some(xdp) = &mut self.xdp {
            xdp.release();
        }
        Ok(())
    }

    fn check_mailboxes(
        &self,
        problem: &str,
        is_right: impl Fn(&Mailbox) -> bool,
    ) -> Result<(), XdpError> {
        let mut cpus = self.partitions.indexed_cpus();
        match cpus.find(|(index, _)| !is_right(self.mailboxes.of(*index))) {
            Some((_, cpu)) => {
                Err(XdpError::hand_over(format!("the receiver of CPU {cpu} {problem}")))
            }
            None => Ok(()),
        }
    }
}
