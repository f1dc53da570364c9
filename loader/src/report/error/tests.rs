use std::error::Error;

use laminar_xdp_prebuilt::{IntegrityError, ManifestError};

use super::*;

/// One error of each kind that has a cause, with the texts of its causes.
fn errors_with_causes() -> Vec<(XdpError, String)> {
    let io = || io::Error::from_raw_os_error(5);
    let shared = || Arc::new(io());
    let manifest = ManifestError::FormatVersion { found: 9 };
    let integrity = IntegrityError { file: "a.o".into(), expected: "1".into(), found: "2".into() };
    let (manifest_text, integrity_text) = (manifest.to_string(), integrity.to_string());
    let mut errors: Vec<_> = [
        XdpError::KernelWithoutBpf { source: shared() },
        XdpError::Attach {
            interface: "eth0".into(),
            mode: XdpAttachMode::Native,
            kernel_message: Some("MTU too large".into()),
            advice: "lower the MTU".into(),
            source: shared(),
        },
        XdpError::kernel("read the statistics", io()),
        XdpError::TooManySockets { cpus: 2, source: shared() },
        XdpError::TooFewDescriptors { needed: 32, source: shared() },
        XdpError::socket("read", io()),
        XdpError::hand_over_io("the running process sent nothing", io()),
        ArtifactError::Unreadable { path: "a.o".into(), source: shared() }.into(),
    ]
    .map(|error| (error, io().to_string()))
    .into();
    let path = "manifest.toml".into();
    errors.push((ArtifactError::Manifest { path, source: manifest }.into(), manifest_text));
    let folder = "folder".into();
    errors.push((ArtifactError::Tampered { folder, source: integrity }.into(), integrity_text));
    errors
}

#[test]
fn each_cause_is_a_source_and_not_part_of_the_message() {
    for (error, cause) in errors_with_causes() {
        let source = error.source().unwrap_or_else(|| panic!("{error} has no source"));
        assert_eq!(source.to_string(), cause);
        assert!(!error.to_string().contains(&cause), "{error}");
    }
}

#[test]
fn with_causes_shows_message_cause_and_advice_once() {
    for (error, cause) in errors_with_causes() {
        let text = error.with_causes().to_string();
        assert_eq!(text.matches(&cause).count(), 1, "{text}");
        assert_eq!(text.len(), error.to_string().len() + ": ".len() + cause.len(), "{text}");
        if let Some(advice) = error.advice() {
            assert!(text.ends_with(&format!("{cause}; {advice}")), "{text}");
            assert!(error.to_string().ends_with(&format!("; {advice}")), "{error}");
        }
    }
}

#[test]
fn with_causes_equals_the_message_if_there_is_no_cause() {
    for error in [
        XdpError::Disabled,
        XdpError::hand_over("the processes differ"),
        ConfigError::new("port", "it is wrong").into(),
    ] {
        assert!(error.source().is_none());
        assert_eq!(error.with_causes().to_string(), error.to_string());
    }
}

#[test]
fn with_causes_puts_the_advice_last() {
    let error = XdpError::kernel("read the statistics", io::Error::other("it broke"));
    assert_eq!(
        error.with_causes().to_string(),
        "cannot read the statistics: it broke; try again, and if the error persists report it \
         with `uname -r` and the end of `dmesg`"
    );
}

#[test]
fn io_error_finds_the_system_error_of_every_error() {
    for (error, cause) in errors_with_causes() {
        let io_error = error.io_error().map(ToString::to_string);
        let is_io = cause == io::Error::from_raw_os_error(5).to_string();
        assert_eq!(io_error, is_io.then_some(cause), "{error}");
    }
}

#[test]
fn errors_can_be_cloned_and_sent_to_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<XdpError>();
    let error = XdpError::kernel("load", io::Error::from_raw_os_error(1));
    assert_eq!(error.clone().with_causes().to_string(), error.with_causes().to_string());
}

#[test]
fn state_errors_name_what_the_caller_can_change() {
    let prefix: IpNet = "198.51.100.0/24".parse().unwrap();
    for (error, words) in [
        (XdpError::UnknownPartition { partition: 64, partitions: 64 }, ["64", "from 0"]),
        (XdpError::UnknownCpu { cpu: 7, cpus: vec![0, 1] }, ["CPU 7", "[0, 1]"]),
        (XdpError::FeatureOff { feature: "source_limit" }, ["not configured", "`source_limit`"]),
        (
            XdpError::ListFull { list: "deny", prefix, max_prefixes: 3 },
            ["holds 3 prefixes", "`max_prefixes`"],
        ),
        (XdpError::NotListed { list: "deny", prefix }, ["198.51.100.0/24", "deny list"]),
    ] {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}
