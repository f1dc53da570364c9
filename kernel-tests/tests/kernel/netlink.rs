//! Attaching over netlink. The loader uses netlink if the kernel has no bpf_links for XDP.

use anyhow::Result;
use laminar_xdp::{XdpAttachMode, XdpError, XdpLoader};
use testbed::TestNet;
use xshell::{Shell, cmd};

use crate::support::{BASELINE, config, fail_link_create, object_of, online_cpus, prebuilt, tests};

tests! {
    Root:
        netlink_attaches_where_the_kernel_has_no_links,
        netlink_error_has_the_message_of_the_kernel,
        netlink_detach_leaves_a_later_program_attached,
        netlink_attachment_is_removed_after_a_failed_link;
}

fn netlink_attaches_where_the_kernel_has_no_links() -> Result<()> {
    let net = TestNet::new()?;
    for mode in [XdpAttachMode::Native, XdpAttachMode::Generic] {
        net.receiver.enter(|| -> Result<()> {
            fail_link_create(libc::EINVAL)?;
            let loader =
                XdpLoader::load_and_attach(&config().attach_mode(mode).build()?, &online_cpus())?;
            assert!(!loader.detaches_on_exit());
            assert_eq!(loader.mode(), mode);
            assert!(net.carries_xdp()?);
            let second = XdpLoader::load_and_attach(&config().build()?, &online_cpus());
            assert!(matches!(second, Err(XdpError::Busy { .. })), "{second:?}");
            net.sending_socket()?.send_to(b"junk", TestNet::destination(9999))?;
            assert_eq!(loader.stats()?.dropped, 1);
            drop(loader);
            assert!(!net.carries_xdp()?, "the program is still attached after the drop");
            Ok(())
        })?;
    }
    Ok(())
}

fn netlink_error_has_the_message_of_the_kernel() -> Result<()> {
    let net = TestNet::new()?;
    net.set_mtu(9000)?;
    let error = net.receiver.enter(|| -> Result<XdpError> {
        fail_link_create(libc::EINVAL)?;
        let config =
            config().force_target("linux-5.9").attach_mode(XdpAttachMode::Native).build()?;
        Ok(XdpLoader::load_and_attach(&config, &online_cpus()).unwrap_err())
    })?;
    let XdpError::Attach { kernel_message, .. } = &error else { panic!("{error:?}") };
    let message = kernel_message.as_deref().unwrap_or_default();
    assert!(message.contains("MTU"), "{error}");
    Ok(())
}

/// Another process has replaced the loader's program, so the loader must not detach the new
/// program.
fn netlink_detach_leaves_a_later_program_attached() -> Result<()> {
    let net = TestNet::new()?;
    let loader = net.receiver.enter(|| -> Result<XdpLoader> {
        fail_link_create(libc::EINVAL)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus())?)
    })?;
    assert!(!loader.detaches_on_exit());
    let ours = loader.program_id()?;
    net.receiver.enter(|| -> Result<()> {
        let (shell, interface) = (Shell::new()?, TestNet::INTERFACE);
        let theirs = prebuilt().join(object_of(BASELINE));
        cmd!(shell, "ip link set dev {interface} xdpdrv off").quiet().run()?;
        cmd!(shell, "ip link set dev {interface} xdpdrv obj {theirs} sec xdp").quiet().run()?;
        let before = net.show_interface()?;
        assert!(before.contains("prog/xdp") && !before.contains(&format!("id {ours} ")));
        loader.detach()?;
        assert_eq!(net.show_interface()?, before);
        Ok(())
    })
}

/// Creating a link fails with EBUSY, but attaching over netlink works. A netlink attachment
/// outlives the process, so the loader must remove the attachment. The loader must also not mistake
/// this attachment for the program of another owner.
fn netlink_attachment_is_removed_after_a_failed_link() -> Result<()> {
    let net = TestNet::new()?;
    let error = net.receiver.enter(|| -> Result<XdpError> {
        fail_link_create(libc::EBUSY)?;
        Ok(XdpLoader::load_and_attach(&config().build()?, &online_cpus()).unwrap_err())
    })?;
    assert!(!net.carries_xdp()?, "{error}");
    let XdpError::NoUsableObject { selection } = error else { panic!("{error}") };
    assert!(selection.to_string().contains("try again"), "{selection}");
    Ok(())
}
