//! What the tests share.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use laminar_xdp::{Outcome, XdpAttachMode, XdpConfig, XdpConfigBuilder, XdpError, XdpLoader};
use laminar_xdp_prebuilt::ByteOrder;
use testbed::{TestNet, kernel};

/// A test: its name, which is the module's and the function's, and itself.
pub type Test = (&'static str, fn() -> Result<()>);

/// Lists the tests of a module by name, under `TESTS` or another.
macro_rules! tests {
    ($list:ident: $($test:ident),* $(,)?) => {
        pub const $list: &[crate::support::Test] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),*];
    };
    ($($test:ident),* $(,)?) => { crate::support::tests! { TESTS: $($test),* } };
}
pub(crate) use tests;

/// A lock on the machine, for all processes that run these tests on it: every test
/// shares it with the others, except those that change it.
pub fn machine() -> std::io::Result<File> {
    let path = std::env::temp_dir().join("laminar-xdp-tests.lock");
    File::options().create(true).append(true).open(path)
}

/// The kernel targets whose objects the running kernel has to be able to run, best
/// first.
pub fn targets() -> &'static [&'static str] {
    match kernel::has_multi_buffer() {
        true => &["linux-5.9", "linux-5.18", "linux-5.3", BASELINE],
        false => &["linux-5.9", "linux-5.3", BASELINE],
    }
}

/// The target for the oldest kernels.
pub const BASELINE: &str = "linux-4.15";

/// The best object that the running kernel has to be able to run, for packets that lie
/// in one buffer.
pub fn best() -> String {
    object_of(targets()[0])
}

/// The best one for generic mode: before Linux 5.15 one that filters only.
pub fn best_in_generic_mode() -> String {
    if kernel::generic_mode_redirects() { best() } else { object_of("linux-5.3") }
}

/// The modes in which the running kernel has to be able to steer.
pub fn steering_modes() -> &'static [XdpAttachMode] {
    let both = &[XdpAttachMode::Native, XdpAttachMode::Generic];
    if kernel::generic_mode_redirects() { both } else { &both[..1] }
}

/// The file name of the object that was picked.
pub fn picked(loader: &XdpLoader) -> &str {
    let candidates = &loader.selection().candidates;
    let picked = candidates.iter().find(|c| matches!(c.outcome, Outcome::Picked { .. }));
    &picked.expect("one is picked").file
}

/// A path at which nothing exists, so that the embedded objects serve.
pub const EMBEDDED: &str = "/nonexistent/laminar_xdp.o";

/// The checked-in objects, as a package would install them.
pub fn prebuilt() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bpf-prebuilt"))
}

/// The object of a target for this machine.
pub fn object_of(target: &str) -> String {
    format!("laminar_xdp.{target}.{}.o", ByteOrder::HOST)
}

/// A configuration for the wire.
pub fn config() -> XdpConfigBuilder {
    XdpConfig::builder().enabled(true).interface(TestNet::INTERFACE).bpf_object_path(EMBEDDED)
}

/// Loads inside the receiver's namespace.
pub fn load(wire: &TestNet, config: &XdpConfig, cores: &[u32]) -> Result<XdpLoader, XdpError> {
    wire.receiver.enter(|| XdpLoader::load_and_attach(config, cores))
}

/// The CPUs that are online here: at least two, or steering shows nothing.
pub fn cores() -> Vec<u32> {
    let cores = testbed::online_cpus();
    assert!(cores.len() >= 2, "steering needs two CPUs, online are {cores:?}");
    cores
}

/// Whether something becomes true within seconds.
pub fn becomes(mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > Duration::from_secs(5) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has something said when all tests are done: in between it would disturb their list.
pub fn note(text: String) {
    NOTES.lock().unwrap().push(text);
}

/// What is to be said.
pub fn notes() -> Vec<String> {
    std::mem::take(&mut NOTES.lock().unwrap())
}

/// Runs `work` on this thread and gives what it warns of as well, a line each. Takes
/// [`heed_warnings`].
pub fn warnings<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let said = Said::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8_lossy(&said.0.lock().unwrap()).into_owned();
    (result, text.lines().map(String::from).collect())
}

/// Has every place in the code that warns be asked each time whether anybody listens.
/// Otherwise those that a thread without a listener comes to first stay mute.
pub fn heed_warnings() {
    let nobody = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    let nobody = nobody.with_writer(std::io::sink).finish();
    tracing::subscriber::set_global_default(nobody).expect("the first one");
}

/// Runs `work` while a CPU is offline, and brings it back whatever happens.
pub fn with_cpu_offline<T>(cpu: u32, work: impl FnOnce() -> T) -> Result<T> {
    struct Back(String);
    impl Drop for Back {
        fn drop(&mut self) {
            std::fs::write(&self.0, "1").expect("bring the CPU back");
        }
    }
    let switch = format!("/sys/devices/system/cpu/cpu{cpu}/online");
    std::fs::write(&switch, "0").with_context(|| format!("cannot write {switch}"))?;
    let _back = Back(switch);
    Ok(work())
}
