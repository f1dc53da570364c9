//! Measures how long it takes to load and attach a program, and the size of the loader's code.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use laminar_xdp::{XdpConfig, XdpLoader};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, embedded};
use testbed::{TestNet, bpf};
use xshell::{Shell, cmd};

use crate::report::{Figure, Part, Row, Table};
use crate::session::Session;

/// The rows of a table. Each row has a name and the durations of its rounds.
#[derive(Default)]
struct Rounds(Vec<(&'static str, Vec<f64>)>);

impl Rounds {
    /// Runs `work` and adds its duration in milliseconds to a row.
    fn time<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let result = work().with_context(|| name.to_owned())?;
        let milliseconds = begin.elapsed().as_secs_f64() * 1000.0;
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, rounds)) => rounds.push(milliseconds),
            None => self.0.push((name, vec![milliseconds])),
        }
        Ok(result)
    }

    fn table(&self, title: &str, ratios_to: Option<&str>) -> Table {
        let row = |(name, rounds): &(&str, Vec<f64>)| Row {
            name: (*name).into(),
            figures: vec![Figure::of(rounds)],
        };
        Table {
            title: title.into(),
            columns: vec!["ms".into()],
            rows: self.0.iter().map(row).collect(),
            ratios_to: ratios_to.map(Into::into),
        }
    }
}

const OURS: &str = "laminar-xdp, load_and_attach";
const IP: &str = "ip link set ... xdp obj";
const XDP_LOADER: &str = "xdp-loader load";

/// A function that attaches the object with a command of another project, and then detaches it.
type ThirdParty = fn(&mut Rounds, &Path) -> Result<()>;

/// Measures laminar-xdp and the commands of other projects on the same interface.
pub fn measure(session: &Session) -> Result<Part> {
    let mut part = Part::new("loading", "Loading and attaching a program");
    let manifest = Manifest::parse(embedded::MANIFEST)?;
    let entry = manifest.default_object(ByteOrder::HOST).context("there is no default object")?;
    let bytes = embedded::object(&entry.file).context("the object is not embedded")?;
    let shell = Shell::new()?;
    let folder = shell.create_temp_dir()?;
    let file = folder.path().join(&entry.file);
    fs::write(&file, bytes)?;

    let net = TestNet::new()?;
    let config = XdpConfig::builder()
        .enabled(true)
        .interface(TestNet::INTERFACE)
        .bpf_object_path("/nonexistent")
        .build()?;
    let cpus = session.all_cpus.as_slice();
    let mut third_party: Vec<(&str, ThirdParty)> = vec![(IP, ip_link), (XDP_LOADER, xdp_loader)];
    let (mut ways, mut steps) = (Rounds::default(), Rounds::default());
    let rounds = session.choose(1, 25);
    session.progress(format_args!("loading: {rounds} rounds"));
    for _ in 0..rounds {
        steps.time("read the manifest, check the objects' SHA-256", verify_objects)?;
        let path = file.to_str().context("the path is not UTF-8")?;
        let program = steps.time("load the object (libbpf, verifier)", || bpf::load_file(path))?;
        let link = steps.time("attach (bpf_link)", || {
            net.receiver.enter(|| bpf::attach(&program, TestNet::INTERFACE))
        })?;
        drop(link);
        net.receiver.enter(|| -> Result<()> {
            let load = || Ok(XdpLoader::load_and_attach(&config, cpus)?);
            let loader = ways.time(OURS, load)?;
            steps.time("detach", || Ok(loader.detach()?))?;
            third_party.retain(|(name, attach)| match attach(&mut ways, &file) {
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
    let title = "from the call or the start of the process until the program is attached";
    part.tables.push(ways.table(title, Some(OURS)));
    part.tables.push(steps.table("single steps", None));
    match sizes() {
        Ok(table) => part.tables.push(table),
        Err(error) => part.left_out.push(format!("size of a binary: {error:#}")),
    }
    Ok(part)
}

fn verify_objects() -> Result<()> {
    let manifest = Manifest::parse(embedded::MANIFEST)?;
    for entry in manifest.objects.iter().filter(|object| object.byte_order == ByteOrder::HOST) {
        entry.verify(embedded::object(&entry.file).context("the object is not embedded")?)?;
    }
    Ok(())
}

fn ip_link(ways: &mut Rounds, file: &Path) -> Result<()> {
    let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
    let load = cmd!(shell, "ip link set dev {interface} xdp obj {file} sec xdp");
    let loaded = ways.time(IP, || Ok(load.quiet().run()?));
    let unloaded = cmd!(shell, "ip link set dev {interface} xdp off").quiet().run();
    loaded.and(unloaded.map_err(Into::into))
}

/// `xdp-loader` is part of Debian's xdp-tools package.
fn xdp_loader(ways: &mut Rounds, file: &Path) -> Result<()> {
    let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
    let load = cmd!(shell, "xdp-loader load --mode native {interface} {file}");
    let loaded = ways.time(XDP_LOADER, || Ok(load.quiet().ignore_stdout().run()?));
    let unload = cmd!(shell, "xdp-loader unload --all {interface}");
    let unloaded = unload.quiet().ignore_stdout().ignore_stderr().run();
    loaded.and(unloaded.map_err(Into::into))
}

/// Measures by how many bytes the crate enlarges a stripped program.
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
    let row = |name: &str, size| Row { name: name.into(), figures: vec![Figure::of(&[size])] };
    Ok(Table {
        title: "size of a stripped program (release)".into(),
        columns: vec!["KiB".into()],
        rows: vec![
            row("empty program", without),
            row("program that loads laminar-xdp", with),
            row("difference: the crate", with - without),
            row("embedded objects (part of the crate)", objects),
        ],
        ratios_to: None,
    })
}
