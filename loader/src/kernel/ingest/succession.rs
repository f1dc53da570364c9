//! One process takes over from another. Over a Unix stream the old one (`offer` and
//! `hand_over`) and the new one (`take_over`) say:
//!
//! ```text
//! new: terms                          what it was configured for
//! old: what there is, descriptors
//! new: ready                          its own programs are in place
//! old: yours                          it has stopped reading
//! new: mine                           it begins
//! ```
//!
//! Each may say "refused" instead, and why.
//!
//! Before "mine" the old process can go on whatever happens to the new one: both hold
//! everything, and programs of either work on the same tables.

use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

use laminar_xdp_prebuilt::abi;

use crate::artifact::Artifact;
use crate::config::XdpConfig;
use crate::error::XdpError;
use crate::ingest::IngestConfig;
use crate::kernel::ingest::estate::{self, Estate, XdpEstate};
use crate::kernel::ingest::peer::{Peer, failed};
use crate::kernel::ingest::turns::{Desk, Turns, lock};
use crate::kernel::ingest::{Ingest, Stage, choice};
use crate::kernel::loader::XdpLoader;
use crate::kernel::sockets::Group;
use crate::kernel::steering::Steering;

/// What both processes have to be configured for alike.
pub fn terms(address: IpAddr, port: u16, steering: &Steering) -> String {
    format!(
        "laminar-xdp hand-over 1, ABI {}, port {port} on {address}, {} partitions, CPUs {:?}",
        abi::LAMINAR_ABI_VERSION,
        steering.partitions(),
        steering.cores()
    )
}

/// A process that is ready to take over ([`Ingest::offer`]). Dropped, it is turned away
/// and everything goes on as before.
#[derive(Debug)]
pub struct Offer<'a> {
    peer: Peer<'a>,
    stage: Arc<Mutex<Stage>>,
    accepted: bool,
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if !self.accepted {
            *lock(&self.stage) = Stage::CalledOff;
            self.peer.refuse("it was called off");
        }
    }
}

impl Ingest {
    /// Takes over from a running process, which answers on the other end of the stream
    /// with [`Ingest::offer`] and [`Ingest::hand_over`]: its sockets with all that waits
    /// in them, its owners, its counters, and its place on the interface, where this
    /// process's own program replaces the other's in one step. Nothing is lost, and
    /// nobody is overtaken. Both must be configured for the same port, address,
    /// partitions and CPUs, be built with objects of the same ABI version, and belong to
    /// the same user, or the other to root.
    ///
    /// What is there is kept as it is, whatever this configuration says: the size of the
    /// receive buffers and of the CPUs' queues, XDP's mode, and whether it steers; where
    /// none of this process's objects can take the running one's place and no limits, lists,
    /// samples or several ports are wanted, the program itself and its port. Only
    /// whether there is XDP is this configuration's: where it is off, the former
    /// attachment ends, its counters with it, and what is in its queues may be overtaken;
    /// where only this one has it, it begins as with [`Ingest::open`] before the running
    /// process has handed over, and many cards lose packets for a moment then.
    ///
    /// Waits for the other side: at most 30 seconds for each step.
    ///
    /// # Errors
    /// [`XdpError::HandOver`] if the processes do not agree or one of them fails, and
    /// otherwise those of [`Ingest::open`], also where that would fall back: if this
    /// process's objects cannot be trusted or do not go where the running one's are, it
    /// does not take over. After an error the running process goes on, and the stream is
    /// shut down.
    pub fn take_over(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        running: &UnixStream,
    ) -> Result<Ingest, XdpError> {
        xdp_config.validate()?;
        let steering = Steering::new(xdp_config, &config.cores)?;
        let peer = Peer::new(running)?;
        let prepared = Self::prepare(config, xdp_config, steering, &peer);
        let (mut ingest, former) = prepared.inspect_err(|error| peer.refuse(error))?;
        let begin = || {
            peer.say("ready")?;
            peer.expect("yours")?;
            peer.say("mine")
        };
        begin().inspect_err(|error| peer.refuse(error))?;
        if let Some(xdp) = &mut ingest.xdp {
            xdp.own();
        }
        if let Some(mut estate) = former {
            estate.attachment.own(); // and so it ends here
        }
        Ok(ingest)
    }

    /// Everything but beginning; dropped, it leaves the running process as it was. With
    /// it comes an XDP program that this process has no use for.
    fn prepare(
        config: &IngestConfig,
        xdp_config: &XdpConfig,
        steering: Steering,
        peer: &Peer,
    ) -> Result<(Ingest, Option<XdpEstate>), XdpError> {
        let artifact = Artifact::find(&xdp_config.bpf_object_path)?;
        let terms = terms(config.address, xdp_config.port, &steering);
        peer.say(&terms)?;
        let Estate { sockets, drops_before, owners, object, xdp } =
            estate::take(peer, &steering, xdp_config.port)?;
        let turns = Arc::new(Turns::new(config.cores.len(), &owners)?);
        // Behind classic BPF the kernel knows only where partitions started.
        if object.is_some() {
            (0..).zip(owners).for_each(|(partition, owner)| steering.set_owner(partition, owner));
        }
        let steering = Arc::new(steering);
        let choice = choice::take_over(&steering, &artifact, object);
        let group = Group::open(sockets, choice, &steering, Some(drops_before))?;
        let mut unwanted = None;
        let loader = match xdp {
            former if !xdp_config.enabled => {
                unwanted = former;
                Err(XdpError::Disabled)
            }
            Some(XdpEstate { attachment, loaded, steers }) => {
                if attachment.interface() != xdp_config.interface {
                    return Err(failed(format!(
                        "the running process has XDP on {}, this one is configured for {}; end \
                         that one and start anew",
                        attachment.interface(),
                        xdp_config.interface
                    )));
                }
                let running = (attachment, loaded, steers);
                Ok(XdpLoader::take_over(xdp_config, steering.clone(), artifact, running)?)
            }
            None => {
                let shared = group.table().map(|table| (abi::LAMINAR_MAP_STEERING, table));
                XdpLoader::load(xdp_config, steering.clone(), artifact, shared.as_slice())
            }
        };
        Ok((Self::with(loader, group, turns, steering, terms, xdp_config)?, unwanted))
    }

    /// Gives a process that takes over ([`Ingest::take_over`]) everything that it needs,
    /// and waits until it is ready, at most 30 seconds for each of its steps. Meanwhile
    /// and afterwards everything goes on here, except that no partition moves.
    ///
    /// Next, have every receiver's thread stop, let [`crate::Receiver::handle_left`]
    /// handle what lies beside the sockets, drop the receivers, and call
    /// [`Ingest::hand_over`]. What waits in the sockets is the new process's. Until then
    /// it can be called off by dropping the offer.
    ///
    /// # Errors
    /// [`XdpError::HandOver`] if the other process is not configured alike, is not
    /// allowed to, or fails.
    pub fn offer<'a>(&self, successor: &'a UnixStream) -> Result<Offer<'a>, XdpError> {
        let peer = Peer::new(successor)?;
        let wanted = peer.hear()?;
        let refuse = |problem: String| {
            peer.refuse(&problem);
            Err(failed(problem))
        };
        if wanted != self.terms {
            return refuse(format!("it wants {wanted:?}, this is {:?}", self.terms));
        }
        let offer = {
            let mut stage = self.stage();
            if *stage != Stage::Serving {
                return refuse("another process is taking over".into());
            }
            let mut partitions = 0..self.partitions();
            if let Some(moving) = partitions.find(|partition| {
                let (now, next) = self.turns.now_and_next(*partition);
                now != next
            }) {
                return refuse(format!("partition {moving} is moving"));
            }
            *stage = Stage::Offered;
            Offer { peer, stage: self.stage.clone(), accepted: false }
        };
        let xdp = self.xdp.as_ref().map(XdpLoader::estate);
        estate::give(&offer.peer, self.turns.owners(), &self.group, xdp)?;
        offer.peer.expect("ready").inspect_err(|_| self.reclaim())?;
        Ok(offer)
    }

    /// Who serves, once everything is as it was if another process did not come to that.
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        let mut stage = lock(&self.stage);
        if *stage == Stage::CalledOff {
            self.reclaim();
            *stage = Stage::Serving;
        }
        stage
    }

    /// Puts this process's programs back in their place, where another one that failed
    /// may have put its own.
    fn reclaim(&self) {
        let sockets = self.group.reclaim(&self.steering);
        let xdp = self.xdp.as_ref().map_or(Ok(()), XdpLoader::reclaim);
        for error in [sockets.err(), xdp.err()].into_iter().flatten() {
            tracing::warn!(%error, "what another process replaced could not be put back");
        }
    }

    /// Lets the other process begin, and waits for its word, at most 30 seconds.
    /// Afterwards this one receives nothing any more, and dropping it changes nothing.
    ///
    /// # Errors
    /// [`XdpError::HandOver`] if a receiver is in use, something is left that nobody has
    /// handled, or the other process is gone; then everything goes on here as soon as
    /// the receivers are taken again.
    pub fn hand_over(&mut self, mut offer: Offer<'_>) -> Result<(), XdpError> {
        // All of them first: a receiver may leave something on another one's desk.
        for (what, is_so) in [
            ("is in use", Desk::is_taken as fn(&Desk) -> bool),
            ("left datagrams that nobody has handled", Desk::has_something),
        ] {
            let mut desks = self.cores().iter().zip(0..);
            if let Some((core, _)) = desks.find(|(_, index)| is_so(self.turns.desk(*index))) {
                return Err(failed(format!("the receiver of CPU {core} {what}")));
            }
        }
        if !Arc::ptr_eq(&offer.stage, &self.stage) {
            return Err(failed("the offer is another ingest's".into()));
        }
        let answer = offer.peer.say("yours").and_then(|()| offer.peer.expect("mine"));
        // One of the two serves: what it may have said at the last moment counts.
        let answer = answer.or_else(|error| {
            offer.peer.hang_up();
            offer.peer.expect("mine").map_err(|_| error)
        });
        answer.inspect_err(|_| self.reclaim())?;
        self.handed_over = true;
        offer.accepted = true;
        if let Some(xdp) = &mut self.xdp {
            xdp.release();
        }
        Ok(())
    }
}
