//! Child processes. A test starts the test program again, with one of the arguments below. Later
//! the test stops or kills that process.

use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};
use laminar_xdp::{IngestConfig, XdpLoader};

use super::arrivals::Arrivals;
use super::config::config;
use super::machine::{online_cpus, two_cpus};
use super::objects::ObjectSet;
use super::ways::OwnerWay;
use crate::runtime::ThreadPerCoreRuntime;

/// The argument that makes the process attach the XDP program. The process keeps the program
/// attached until its standard input ends or the process is killed.
pub const HOLD: &str = "--hold-attachment";

/// The argument that makes the process own ingest. The process ends when it hands over, when its
/// standard input ends, or when it is killed. Further arguments: the name of an
/// [`OwnerWay`](super::OwnerWay), the path of the [`Arrivals`], the path of the socket to which its
/// successor connects, and optionally the path of its predecessor's socket.
pub const OWN: &str = "--own-ingest";

/// A partition that the first process moves to the other CPU. After each hand-over, that CPU must
/// still own the partition.
pub const MOVED: u32 = 0;

/// Runs as a child process if the first argument is one of the above. Returns `None` if the
/// arguments are for the test runner instead.
pub fn run_as_child() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (first, rest) = arguments.split_first()?;
    let result = match first.as_str() {
        HOLD => hold(),
        OWN => own(rest),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

fn hold() -> Result<()> {
    let loader = XdpLoader::load_and_attach(&config().build()?, &online_cpus())?;
    println!("attached");
    wait_for_end_of_input();
    drop(loader);
    Ok(())
}

fn own(arguments: &[String]) -> Result<()> {
    let [name, arrivals, socket, predecessor @ ..] = arguments else { bail!("{arguments:?}") };
    let way = OwnerWay::named(name).with_context(|| format!("no way is named {name:?}"))?;
    let objects = ObjectSet::without_sockets_object()?;
    let (arrivals, config) = (Arrivals::open(arrivals)?, way.way.config(&objects).build()?);
    let ingest = IngestConfig::new(two_cpus());
    way.restrict()?;
    let handler = |partition| arrivals.handler(partition);
    let runtime = match predecessor {
        [] => ThreadPerCoreRuntime::with_xdp(&ingest, &config, handler)?,
        [predecessor, ..] => {
            let running = UnixStream::connect(predecessor)?;
            ThreadPerCoreRuntime::take_over(&ingest, &config, &running, handler)?
        }
    };
    let [_, new_owner] = two_cpus();
    if predecessor.is_empty() {
        runtime.move_partition(MOVED, new_owner)?;
    }
    ensure!(runtime.ingest().owner(MOVED) == Some(new_owner));
    let listener = UnixListener::bind(socket)?;
    println!("started: {}", runtime.ingest().mode());
    let (event, events) = mpsc::channel();
    let stop = event.clone();
    std::thread::spawn(move || {
        wait_for_end_of_input();
        stop.send(None)
    });
    std::thread::spawn(move || event.send(listener.accept().ok()));
    match events.recv()? {
        Some((successor, _)) => runtime.hand_over(&successor).map_err(|failed| failed.1)?,
        None => println!("{:?}", runtime.xdp_stats()?),
    }
    println!("done");
    Ok(())
}

/// Waits until standard input has a line or is closed. When the test ends, the kernel closes it.
fn wait_for_end_of_input() {
    std::io::stdin().read_line(&mut String::new()).ok();
}
