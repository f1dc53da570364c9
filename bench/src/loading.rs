//! How long it takes until a program is attached, and how large what does it is.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use laminar_xdp::{XdpConfig, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, embedded};
use testbed::{TestNet, bpf};
use xshell::{Shell, cmd};

use crate::Bench;
use crate::figures::Figure;
use crate::report::{Part, Row, Table};

/// A figure that grows by a round at a time.
#[derive(Default)]
struct Rounds(Vec<(&'static str, Vec<f64>)>);

impl Rounds {
    fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, rounds)) => rounds.push(value),
            None => self.0.push((name, vec![value])),
        }
    }

    /// Times what is done.
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = work().with_context(|| name.to_owned())?;
        self.add(name, milliseconds(begin.elapsed()));
        Ok(result)
    }

    fn table(&self, title: &str, unit: &str, ratios_to: Option<&str>) -> Table {
        let row = |(name, rounds): &(&str, Vec<f64>)| Row {
            name: (*name).into(),
            figures: vec![Some(Figure::of(rounds))],
        };
        Table {
            title: title.into(),
            columns: vec![unit.into()],
            rows: self.0.iter().map(row).collect(),
            ratios_to: ratios_to.map(Into::into),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

const OURS: &str = "laminar-xdp, load_and_attach";

/// Measures ways to attach in turn, on one wire.
pub fn measure(bench: &Bench) -> Result<Part> {
    let mut part = Part::new("loading", "From nothing to attached");
    let manifest = Manifest::parse(embedded::MANIFEST)?;
    let entry = manifest.default_object(ByteOrder::HOST).context("there is a default object")?;
    let bytes = embedded::object(&entry.file).context("it is embedded")?;
    let shell = Shell::new()?;
    let folder = shell.create_temp_dir()?;
    let file = folder.path().join(&entry.file);
    fs::write(&file, bytes)?;

    let wire = TestNet::new()?;
    let config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path("/nonexistent")
        .build()?;
    let cores = bench.all_cpus.as_slice();
    let mut peers: Vec<(&str, Peer)> = vec![(IP, ip_link), (XDP_LOADER, xdp_loader)];
    let (mut ways, mut parts) = (Rounds::default(), Rounds::default());
    let rounds = bench.choose(1, 25);
    bench.progress(format_args!("loading: {rounds} rounds"));
    for _ in 0..rounds {
        parts.time("read the manifest, check the objects' SHA-256", || {
            let manifest = Manifest::parse(embedded::MANIFEST)?;
            for entry in manifest.objects.iter().filter(|o| o.byte_order == ByteOrder::HOST) {
                entry.verify(embedded::object(&entry.file).context("it is embedded")?)?;
            }
            Ok(())
        })?;
        let path = file.to_str().context("a path that is no text")?;
        let program = parts.time("libbpf and the verifier", || bpf::load_file(path))?;
        let link = parts.time("attach (bpf_link)", || {
            wire.receiver.enter(|| bpf::attach(&program, TestNet::INTERFACE))
        })?;
        drop(link);
        wire.receiver.enter(|| -> Result<()> {
            let load = || Ok(XdpLoader::load_and_attach(&config, cores)?);
            let loader = ways.time(OURS, load)?;
            parts.time("and to detach again", || Ok(loader.detach()?))?;
            peers.retain(|(name, peer)| match peer(&mut ways, &file) {
                Ok(()) => true,
                Err(error) => {
                    part.left_out.push(format!("{name}: {error:#}"));
                    false
                }
            });
            let shell = Shell::new()?;
            let nothing = || Ok(cmd!(shell, "true").quiet().run()?);
            ways.time("a process that does nothing", nothing)
        })?;
    }
    part.tables.push(ways.table(
        "from the call or the start of the process to attached",
        "ms",
        Some(OURS),
    ));
    part.tables.push(parts.table("parts of it, each measured alone", "ms", None));
    match sizes() {
        Ok(table) => part.tables.push(table),
        Err(error) => part.left_out.push(format!("size of a binary: {error:#}")),
    }
    Ok(part)
}

/// Somebody else's way to attach the object and take it off again.
type Peer = fn(&mut Rounds, &Path) -> Result<()>;

const IP: &str = "ip link set ... xdp obj";
const XDP_LOADER: &str = "xdp-loader load";

fn ip_link(ways: &mut Rounds, file: &Path) -> Result<()> {
    let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
    let load = cmd!(shell, "ip link set dev {interface} xdp obj {file} sec xdp");
    let loaded = ways.time(IP, || Ok(load.quiet().run()?));
    let unloaded = cmd!(shell, "ip link set dev {interface} xdp off").quiet().run();
    loaded.and(unloaded.map_err(Into::into))
}

/// Debian's xdp-tools has it.
fn xdp_loader(ways: &mut Rounds, file: &Path) -> Result<()> {
    let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
    let load = cmd!(shell, "xdp-loader load --mode native {interface} {file}");
    let loaded = ways.time(XDP_LOADER, || Ok(load.quiet().ignore_stdout().run()?));
    let unload = cmd!(shell, "xdp-loader unload --all {interface}");
    let unloaded = unload.quiet().ignore_stdout().ignore_stderr().run();
    loaded.and(unloaded.map_err(Into::into))
}

/// The crate's share of a program's size, without symbols.
fn sizes() -> Result<Table> {
    let shell = Shell::new()?;
    let here = std::env::current_exe()?;
    let folder = shell.create_temp_dir()?;
    let size = |name: &str| -> Result<f64> {
        let (from, to) = (here.with_file_name(name), folder.path().join(name));
        cmd!(shell, "strip -o {to} {from}").quiet().run()?;
        Ok(fs::metadata(to)?.len() as f64 / 1024.0)
    };
    let (with, without) = (size("size-with")?, size("size-without")?);
    let manifest = Manifest::parse(embedded::MANIFEST)?;
    let objects = manifest.objects.iter().filter_map(|entry| embedded::object(&entry.file));
    let objects = objects.map(<[u8]>::len).sum::<usize>() as f64 / 1024.0;
    let row =
        |name: &str, size| Row { name: name.into(), figures: vec![Some(Figure::of(&[size]))] };
    Ok(Table {
        title: "size of a stripped program (release)".into(),
        columns: vec!["KiB".into()],
        rows: vec![
            row("that does nothing", without),
            row("that loads laminar-xdp", with),
            row("so the crate's share", with - without),
            row("of which embedded objects", objects),
        ],
        ratios_to: None,
    })
}
