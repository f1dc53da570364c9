//! The configuration that most tests use, and a function that loads with a configuration on the
//! test network.

use laminar_xdp::{XdpConfig, XdpConfigBuilder, XdpError, XdpLoader};
use testbed::TestNet;

/// A path where no file exists, so that the loader uses the embedded objects.
pub const EMBEDDED: &str = "/nonexistent/laminar_xdp.o";

/// A configuration for the test network's interface, with the embedded objects.
pub fn config() -> XdpConfigBuilder {
    XdpConfig::builder().enabled(true).interface(TestNet::INTERFACE).bpf_object_path(EMBEDDED)
}

/// Loads and attaches in the receiver's namespace.
pub fn load(net: &TestNet, config: &XdpConfig, cpus: &[u32]) -> Result<XdpLoader, XdpError> {
    net.receiver.enter(|| XdpLoader::load_and_attach(config, cpus))
}
