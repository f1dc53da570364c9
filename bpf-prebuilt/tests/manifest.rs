//! The checked-in manifest, and manifests with errors.

use std::io::Write;

use laminar_xdp_prebuilt::{ByteOrder, Manifest, ManifestError, abi, embedded};

fn checked_in() -> Manifest {
    Manifest::parse(embedded::MANIFEST).unwrap()
}

#[test]
fn checked_in_objects_match_their_manifest() {
    let manifest = checked_in();
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
fn default_name_finds_the_default_target_of_the_host() {
    let manifest = checked_in();
    let default = manifest.find(Manifest::DEFAULT_OBJECT).unwrap();
    assert_eq!(default.byte_order, ByteOrder::HOST);
    assert_eq!(default.target, manifest.default_target);
    for object in &manifest.objects {
        assert_eq!(manifest.find(&object.file), Some(object));
    }
    assert_eq!(manifest.find("unlisted.o"), None);
}

#[test]
fn written_manifests_are_read_back() {
    let manifest = checked_in();
    assert_eq!(Manifest::parse(&manifest.to_toml().unwrap()).unwrap(), manifest);
}

#[test]
fn unknown_fields_are_ignored() {
    let text = format!("comment = \"new in a later release\"\n{}", embedded::MANIFEST);
    assert_eq!(Manifest::parse(&text).unwrap(), checked_in());
}

#[test]
fn format_version_is_checked_before_other_fields() {
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
fn default_target_must_have_an_xdp_object() {
    for other in ["x", "linux-4.19"] {
        let text = checked_in()
            .to_toml()
            .unwrap()
            .replace("default_target = \"linux-5.9\"", &format!("default_target = \"{other}\""));
        assert!(matches!(Manifest::parse(&text), Err(ManifestError::Malformed(_))), "{other}");
    }
}

#[test]
fn invalid_entries_are_named() {
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = checked_in();
        change(&mut manifest);
        match Manifest::parse(&manifest.to_toml().unwrap()) {
            Err(ManifestError::Entry { file, problem }) => (file, problem),
            other => panic!("{other:?}"),
        }
    };
    let (file, problem) = refused(|m| m.objects[1].file = "../x.o".into());
    assert!(file == "../x.o" && problem.contains("folder"), "{file}: {problem}");
    let (_, problem) = refused(|m| m.objects[1].file = m.objects[0].file.clone());
    assert!(problem.contains("reserved"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].file = Manifest::DEFAULT_OBJECT.into());
    assert!(problem.contains("reserved"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].sha256.make_ascii_uppercase());
    assert!(problem.contains("sha256"), "{problem}");
    let (_, problem) = refused(|m| m.objects[0].sha256.truncate(63));
    assert!(problem.contains("sha256"), "{problem}");
}

/// A manifest with one wrong byte, or without its last bytes, is accepted or refused, without a
/// panic. An accepted manifest names only plain files.
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
    // The test harness shows the output of `eprintln!` only after a failure, so write to stderr
    // instead.
    writeln!(std::io::stderr(), "{tried} damaged manifests were read").expect("stderr");
    assert!(tried > 2000, "{tried}");
}
