//! The checked-in manifest, and texts that are not quite one.

use std::io::Write;

use laminar_xdp_prebuilt::{ByteOrder, Manifest, ManifestError, abi, embedded};

fn good() -> Manifest {
    Manifest::parse(embedded::MANIFEST).unwrap()
}

#[test]
fn the_checked_in_set_is_intact() {
    let manifest = good();
    for object in &manifest.objects {
        let bytes = embedded::object(&object.file).expect("embedded");
        object.verify(bytes).unwrap();
        assert_eq!(ByteOrder::of_elf(bytes), Some(object.byte_order));
        assert_eq!(object.abi_version, abi::LAMINAR_ABI_VERSION);
        let mut flipped = bytes.to_vec();
        flipped[100] ^= 1;
        assert!(object.verify(&flipped).is_err());
    }
    assert_eq!(embedded::object("laminar_xdp.o"), None);
}

#[test]
fn the_default_name_stands_for_the_hosts_default() {
    let manifest = good();
    let default = manifest.find(Manifest::DEFAULT_OBJECT).unwrap();
    assert_eq!(default.byte_order, ByteOrder::HOST);
    assert_eq!(default.target, manifest.default_target);
    for object in &manifest.objects {
        assert_eq!(manifest.find(&object.file), Some(object));
    }
    assert_eq!(manifest.find("somebody_elses.o"), None);
}

#[test]
fn what_is_written_is_what_is_read() {
    let manifest = good();
    assert_eq!(Manifest::parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
}

#[test]
fn unknown_fields_are_for_newer_readers() {
    let text = format!("comment = \"new in a later release\"\n{}", embedded::MANIFEST);
    assert_eq!(Manifest::parse(&text).unwrap(), good());
}

#[test]
fn the_format_version_is_judged_first() {
    for found in [1, 3] {
        let other = format!("format_version = {found}\nobjects = \"of another shape\"");
        assert_eq!(Manifest::parse(&other), Err(ManifestError::FormatVersion { found }));
    }
    let negative = "format_version = -1";
    assert_eq!(Manifest::parse(negative), Err(ManifestError::FormatVersion { found: -1 }));
    let text = "format_version = \"1\"";
    assert!(matches!(Manifest::parse(text), Err(ManifestError::Malformed(_))));
}

#[test]
fn the_default_target_has_an_xdp_object() {
    for other in ["x", "linux-4.19"] {
        let text = good()
            .to_toml()
            .unwrap()
            .replace("default_target = \"linux-5.9\"", &format!("default_target = \"{other}\""));
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Malformed(_))), "{other}");
    }
}

#[test]
fn entries_that_cannot_be_used_are_named() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = good();
        change(&mut manifest);
        match Manifest::parse(&manifest.to_toml().unwrap()) {
            Err(ManifestError::Entry { file, problem }) => (file, problem),
            other => panic!("{other:?}"),
        }
    };
    let (file, problem) = refused(|m| m.objects[1].file = "../x.o".into());
    assert!(file == "../x.o" && problem.contains("folder"), "{file}: {problem}");
    let (_, problem) = refused(|m| m.objects[1].file = m.objects[0].file.clone());
    assert!(problem.contains("taken"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].file = Manifest::DEFAULT_OBJECT.into());
    assert!(problem.contains("taken"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].sha256.make_ascii_uppercase());
    assert!(problem.contains("sha256"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].sha256.truncate(63));
    assert!(problem.contains("sha256"), "{problem}");
}

/// Whatever one wrong byte or an early end does to a manifest, reading it ends
/// with a value or an error, and an accepted one names only plain files.
#[test]
fn damaged_manifests_never_panic() {
    let text = embedded::MANIFEST.as_bytes();
    let mut tried = 0;
    let mut read = |bytes: &[u8]| {
        tried += 1;
        if let Ok(manifest) = Manifest::parse(&String::from_utf8_lossy(bytes)) {
            assert!(manifest.objects.iter().all(|object| !object.file.contains('/')));
        }
    };
    for at in (0..text.len()).step_by(41) {
        read(&text[..at]);
        for wrong in [b'"', b'\n', b'[', b'=', b'/', 0xff] {
            let mut bytes = text.to_vec();
            bytes[at] = wrong;
            read(&bytes);
        }
    }
    // Not by a macro, which would show it only after a failure.
    writeln!(std::io::stderr(), "{tried} damaged manifests were read").expect("stderr");
    assert!(tried > 2000, "{tried}");
}
