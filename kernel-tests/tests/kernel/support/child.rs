//! Child processes. A test starts the test program again, with one of the arguments below. Later
//! the test stops or kills that process.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use laminar_xdp::{Ingest, IngestConfig, XdpLoader};

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

/// The argument that makes the process open ingest repeatedly while it receives a signal in every
/// millisecond. The process prints the mode of each ingest.
pub const OPEN_UNDER_SIGNALS: &str = "--open-under-signals";

/// The argument that makes the process load the program with every limit of descriptors, from too
/// few to enough. The process prints each error, and "loaded" at the end.
pub const LOAD_WITH_FEW_DESCRIPTORS: &str = "--load-with-few-descriptors";

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
        OPEN_UNDER_SIGNALS => open_under_signals(),
        LOAD_WITH_FEW_DESCRIPTORS => load_with_few_descriptors(),
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

fn open_under_signals() -> Result<()> {
    testbed::stress::signal_every(Duration::from_millis(1))?;
    for _ in 0..10 {
        let ingest = Ingest::open(&IngestConfig::new(two_cpus()), &config().build()?)?;
        println!("{}", ingest.mode());
    }
    Ok(())
}

fn load_with_few_descriptors() -> Result<()> {
    let (config, cpus) = (config().build()?, online_cpus());
    // The descriptor that a new file gets is the lowest free one.
    let open = std::fs::File::open("/dev/null")?.as_raw_fd() as u64;
    for limit in open..open + 200 {
        testbed::stress::limit_descriptors(limit)?;
        match XdpLoader::load_and_attach(&config, &cpus) {
            Ok(_) => {
                println!("loaded");
                return Ok(());
            }
            Err(error) => println!("{:?}", error.with_causes().to_string()),
        }
    }
    bail!("200 more descriptors are not enough")
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
