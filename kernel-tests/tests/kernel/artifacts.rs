//! Finding the objects, and what becomes of those that are not what they seem.

use std::fs;

use anyhow::{Context, Result};
use laminar_xdp::{ArtifactError, ManifestError, XdpError};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, abi};
use object::{Object, ObjectSection};
use testbed::TestNet;

use crate::support::{BASELINE, ObjectSet, best, datagrams, note, object_of, picked, tests};

tests! {
    Root:
        a_folder_an_object_of_a_set_and_one_alone,
        what_may_not_be_looked_at_is_not_missing,
        the_default_name_stands_for_the_set,
        a_set_is_intact_or_refused,
        manifests_that_cannot_be_trusted,
        files_that_are_no_objects,
        objects_of_the_other_byte_order,
        programs_that_are_not_ours,
        maps_of_another_size,
        damaged_objects_never_load_or_panic;
}

fn a_folder_an_object_of_a_set_and_one_alone() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let (best, baseline) = (best(), object_of(BASELINE));
    assert_eq!(picked(&set.load(&net, "")?), best);
    // An object of the set stands for the set, so a better sibling is taken.
    assert_eq!(picked(&set.load(&net, &baseline)?), best);
    // Without its manifest it stands for itself.
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let alone = set.load(&net, &baseline)?;
    assert_eq!(picked(&alone), baseline);
    assert!(alone.selection().origin.contains("alone, without a manifest"));
    drop(alone);
    assert!(matches!(
        set.load_error(&net, ""),
        XdpError::Artifact(ArtifactError::Unreadable { path, .. })
            if path.ends_with(Manifest::FILE_NAME)
    ));
    Ok(())
}

/// A path that cannot be examined is an error; only one at which nothing exists
/// gives way to the embedded objects.
fn what_may_not_be_looked_at_is_not_missing() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let through_a_file = format!("{}/laminar_xdp.o", object_of("linux-5.9"));
    let error = set.load_error(&net, &through_a_file);
    assert!(matches!(error, XdpError::Artifact(ArtifactError::Unreadable { .. })), "{error}");
    let missing = set.load(&net, "no/such/folder/laminar_xdp.o")?;
    assert!(missing.selection().origin.contains("embedded"), "{}", missing.selection());
    Ok(())
}

fn the_default_name_stands_for_the_set() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    std::os::unix::fs::symlink(object_of("linux-5.9"), set.path(Manifest::DEFAULT_OBJECT))?;
    let loader = set.load(&net, Manifest::DEFAULT_OBJECT)?;
    assert!(loader.selection().origin.starts_with("the set in "));
    assert_eq!(picked(&loader), best());
    drop(loader);
    // A default object that is not the one listed is a tampered set.
    fs::remove_file(set.path(Manifest::DEFAULT_OBJECT))?;
    fs::copy(set.path(&object_of("linux-4.15")), set.path(Manifest::DEFAULT_OBJECT))?;
    let error = set.load_error(&net, Manifest::DEFAULT_OBJECT);
    assert!(matches!(error, XdpError::Artifact(ArtifactError::Tampered { .. })), "{error}");
    let text = error.with_causes().to_string();
    assert!(text.contains("laminar_xdp.o is not the object"), "{text}");
    Ok(())
}

fn a_set_is_intact_or_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    // Even the object that would not be used.
    for file in set.manifest()?.objects.iter().map(|object| &object.file) {
        let good = fs::read(set.path(file))?;
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], b""] {
            fs::write(set.path(file), bad)?;
            let error = set.load_error(&net, "");
            assert!(matches!(error, XdpError::Artifact(ArtifactError::Tampered { .. })), "{error}");
            assert!(error.with_causes().to_string().contains(file), "{error}");
        }
        fs::remove_file(set.path(file))?;
        let error = set.load_error(&net, "");
        assert!(matches!(error, XdpError::Artifact(ArtifactError::Unreadable { .. })), "{error}");
        assert!(error.to_string().contains(file), "{error}");
        fs::write(set.path(file), &good)?;
    }
    drop(set.load(&net, "")?);
    Ok(())
}

fn manifests_that_cannot_be_trusted() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let good = fs::read_to_string(set.path(Manifest::FILE_NAME))?;
    let best = object_of("linux-5.9");
    let source = |text: String| -> ManifestError {
        set.write_manifest(&text).unwrap();
        // The folder and an object beside the manifest are refused alike.
        set.load_error(&net, &best);
        match set.load_error(&net, "") {
            XdpError::Artifact(ArtifactError::Manifest { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    };
    for malformed in ["", "[[object", "format_version = 2", "format_version = 2\nobject = []"] {
        assert!(matches!(source(malformed.into()), ManifestError::Malformed(_)), "{malformed:?}");
    }
    let future = good.replace("format_version = 2", "format_version = 3");
    assert_eq!(source(future), ManifestError::FormatVersion { found: 3 });
    for name in ["../laminar_xdp.o", "/etc/passwd", "a/b.o", ".hidden", "", "nul\\u0000.o"] {
        let text = good.replace(&format!("file = \"{best}\""), &format!("file = \"{name}\""));
        assert_ne!(text, good);
        assert!(matches!(source(text), ManifestError::Entry { .. }), "{name:?}");
    }
    set.write_manifest(&good)?;
    drop(set.load(&net, "")?);
    Ok(())
}

fn files_that_are_no_objects() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let name = "lone.o";
    let elf = fs::read(set.path(&object_of("linux-5.9")))?;
    for (bytes, says) in [
        (&b""[..], "it is empty"),
        (b"\x7fELF", "does not start like"),
        (b"#!/bin/sh\n", "does not start like"),
        (&elf[..19], "does not start like"),
        (&vec![0; 5 << 20], "larger than 4 MiB"),
    ] {
        fs::write(set.path(name), bytes)?;
        let error = set.load_error(&net, name);
        assert!(matches!(error, XdpError::Artifact(_)), "{error}");
        let text = error.with_causes().to_string();
        assert!(text.contains(says), "{text}");
    }
    fs::write(set.path(name), &elf[..elf.len() / 2])?;
    let error = set.load_error(&net, name);
    assert!(error.to_string().contains("damaged, reinstall it"), "{error}");
    fs::remove_file(set.path(name))?;
    let fifo = std::ffi::CString::new(set.path(name).to_str().context("path")?)?;
    // SAFETY: the path is a C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let error = set.load_error(&net, name);
    let text = error.with_causes().to_string();
    assert!(text.contains("not a regular file"), "{text}");
    Ok(())
}

fn objects_of_the_other_byte_order() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let other = match ByteOrder::HOST {
        ByteOrder::Bpfel => ByteOrder::Bpfeb,
        ByteOrder::Bpfeb => ByteOrder::Bpfel,
    };
    let name = format!("laminar_xdp.linux-5.9.{other}.o");
    // A set of nothing else says so for each, and so does the object alone.
    let mut manifest = set.manifest()?;
    manifest.objects.retain(|object| object.byte_order == other);
    set.write_manifest(&manifest.to_toml()?)?;
    let error = set.load_error(&net, "");
    assert!(matches!(error, XdpError::NoUsableObject { .. }), "{error}");
    let reason =
        format!("{name}: refused: it is for {other} machines, this machine is {}", ByteOrder::HOST);
    assert!(error.to_string().contains(&reason), "{error}");
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    assert!(matches!(
        set.load_error(&net, &name),
        XdpError::Artifact(ArtifactError::WrongByteOrder { found, .. }) if found == other
    ));
    Ok(())
}

/// Other people's objects load nothing and change nothing.
fn programs_that_are_not_ours() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let ours = fs::read(set.path(&object_of("linux-5.9")))?;
    for (was, becomes) in [
        (&b"laminar_ingress\0"[..], &b"laminar_ingresz\0"[..]),
        (b"\0steering\0", b"\0steerinG\0"),
        (b"\0cpu_map\0", b"\0cpu_mad\0"),
    ] {
        fs::write(set.path("lone.o"), replace_all(&ours, was, becomes))?;
        let error = set.load_error(&net, "lone.o");
        assert!(error.to_string().contains("not an object of laminar-xdp"), "{error}");
    }
    Ok(())
}

/// The entries of `stats` are part of the agreement: a counter that is not there
/// could not be read, and millions would be paid for in memory.
fn maps_of_another_size() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let ours = fs::read(set.path(&object_of("linux-5.9")))?;
    let btf = object::File::parse(&ours[..])?
        .section_by_name(".BTF")
        .and_then(|section| section.file_range())
        .context("no section .BTF")?;
    let btf = btf.0 as usize..(btf.0 + btf.1) as usize;
    // The array of 7 that stands for the number of entries: its last word.
    let seven = abi::LAMINAR_REASON_COUNT.to_ne_bytes();
    let words = btf.clone().step_by(4).filter(|at| ours[*at..].starts_with(&seven));
    let mut refused = 0;
    for at in words {
        let mut bad = ours.clone();
        bad[at..at + 4].copy_from_slice(&1u32.to_ne_bytes());
        fs::write(set.path("lone.o"), bad)?;
        if let Err(error) = set.load(&net, "lone.o") {
            let says = "\"stats\" (type 6, 4 byte keys, 16 byte values, 1 entries";
            refused += error.to_string().contains(says) as u32;
        }
    }
    assert_eq!(refused, 1, "one of the words is that number, and it was noticed");
    Ok(())
}

fn replace_all(bytes: &[u8], was: &[u8], becomes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut replaced = 0;
    for at in 0..bytes.len() - was.len() {
        if bytes[at..].starts_with(was) {
            bytes[at..at + was.len()].copy_from_slice(becomes);
            replaced += 1;
        }
    }
    assert!(replaced > 0);
    bytes
}

/// Truncations and single-bit errors: an object that nothing
/// vouches for may load if the damage is harmless, but never brings the process
/// down, and never stays attached.
fn damaged_objects_never_load_or_panic() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let good = fs::read(set.path(&object_of("linux-5.9")))?;
    let lengths = (0..good.len()).step_by(499);
    for length in lengths.clone() {
        fs::write(set.path("lone.o"), &good[..length])?;
        set.load_error(&net, "lone.o");
    }
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    // The verifier takes most of this, and under emulation most of all tests' time.
    let mutations = (datagrams() / 4000).clamp(20, 250);
    let mut loaded = 0;
    for _ in 0..mutations {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut bad = good.clone();
        bad[(random >> 8) as usize % good.len()] ^= 1 << (random & 7);
        fs::write(set.path("lone.o"), &bad)?;
        loaded += u32::from(set.load(&net, "lone.o").is_ok());
    }
    assert!(!net.carries_xdp()?);
    note(format!(
        "damaged objects: {} cut short, none loaded; {mutations} with a wrong bit, of which no \
         manifest would let any pass: {loaded} harmless enough for the kernel",
        lengths.count()
    ));
    Ok(())
}
