//! How the loader finds the object files, and which files it refuses: objects that are damaged,
//! belong to another project, or differ from their manifest.

use std::fs;

use anyhow::{Context, Result};
use laminar_xdp::{ArtifactError, ManifestError, XdpError};
use laminar_xdp_prebuilt::{ByteOrder, Manifest, abi, sha256_hex};
use object::{Object, ObjectSection};
use testbed::TestNet;

use crate::support::{BASELINE, ObjectSet, best, datagrams, note, object_of, picked, tests};

tests! {
    Root:
        path_may_be_a_folder_an_object_of_a_set_or_a_lone_object,
        unreadable_path_does_not_fall_back_to_the_embedded_objects,
        default_object_name_selects_the_whole_set,
        set_with_one_damaged_object_is_refused,
        set_that_would_fill_the_memory_is_refused,
        untrustworthy_manifests_are_refused,
        files_that_are_not_objects_are_refused,
        objects_of_the_other_byte_order_are_refused,
        programs_of_other_projects_are_refused,
        maps_of_another_size_are_refused,
        damaged_objects_neither_panic_nor_stay_attached;
}

fn path_may_be_a_folder_an_object_of_a_set_or_a_lone_object() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let (best, baseline) = (best(), object_of(BASELINE));
    assert_eq!(picked(&set.load(&net, "")?), best);
    // If a manifest is in the same folder, the path of one object stands for the whole set. The
    // loader therefore picks the best object of the set.
    assert_eq!(picked(&set.load(&net, &baseline)?), best);
    // Without the manifest, the path selects only that object.
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

/// A manifest can name one large file many times, by links.
fn set_that_would_fill_the_memory_is_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let mut bytes = fs::read(set.path(&best()))?;
    bytes.resize(4 << 20, 0);
    fs::write(set.path("large"), &bytes)?;
    let mut manifest = set.manifest()?;
    let mut entry = manifest.find(&best()).context("no entry")?.clone();
    entry.sha256 = sha256_hex(&bytes);
    manifest.objects.clear();
    for number in 0..17 {
        entry.file = format!("link{number}.o");
        fs::hard_link(set.path("large"), set.path(&entry.file))?;
        manifest.objects.push(entry.clone());
    }
    set.write_manifest(&manifest.to_toml()?)?;
    let error = set.load_error(&net, "");
    assert!(matches!(error, XdpError::Artifact(ArtifactError::SetTooLarge { .. })), "{error}");
    Ok(())
}

/// The loader uses the embedded objects only if nothing exists at the path.
fn unreadable_path_does_not_fall_back_to_the_embedded_objects() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let through_a_file = format!("{}/laminar_xdp.o", object_of("linux-5.9"));
    let error = set.load_error(&net, &through_a_file);
    assert!(matches!(error, XdpError::Artifact(ArtifactError::Unreadable { .. })), "{error}");
    let missing = set.load(&net, "no/such/folder/laminar_xdp.o")?;
    assert!(missing.selection().origin.contains("embedded"), "{}", missing.selection());
    Ok(())
}

fn default_object_name_selects_the_whole_set() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    std::os::unix::fs::symlink(object_of("linux-5.9"), set.path(Manifest::DEFAULT_OBJECT))?;
    let loader = set.load(&net, Manifest::DEFAULT_OBJECT)?;
    assert!(loader.selection().origin.starts_with("the set in "));
    assert_eq!(picked(&loader), best());
    drop(loader);
    // Replace the default object with a copy of another object, so that it differs from the
    // manifest.
    fs::remove_file(set.path(Manifest::DEFAULT_OBJECT))?;
    fs::copy(set.path(&object_of("linux-4.15")), set.path(Manifest::DEFAULT_OBJECT))?;
    let error = set.load_error(&net, Manifest::DEFAULT_OBJECT);
    assert!(matches!(error, XdpError::Artifact(ArtifactError::Tampered { .. })), "{error}");
    let text = error.with_causes().to_string();
    assert!(text.contains("laminar_xdp.o is not the object"), "{text}");
    Ok(())
}

/// The loader refuses the set even if the loader would pick another object than the damaged one.
fn set_with_one_damaged_object_is_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
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

fn untrustworthy_manifests_are_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let good = fs::read_to_string(set.path(Manifest::FILE_NAME))?;
    let best = object_of("linux-5.9");
    let source = |text: String| -> ManifestError {
        set.write_manifest(&text).unwrap();
        // The loader refuses the folder. The loader also refuses the path of a single object in
        // that folder.
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

fn files_that_are_not_objects_are_refused() -> Result<()> {
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

fn objects_of_the_other_byte_order_are_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    let other = match ByteOrder::HOST {
        ByteOrder::Bpfel => ByteOrder::Bpfeb,
        ByteOrder::Bpfeb => ByteOrder::Bpfel,
    };
    let name = format!("laminar_xdp.linux-5.9.{other}.o");
    // If every object of a set has the other byte order, the error names all objects. The loader
    // also refuses such an object without a set.
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

fn programs_of_other_projects_are_refused() -> Result<()> {
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

/// The number of entries of the map `stats` is part of the ABI. With fewer entries, the loader
/// could not read every counter. With millions of entries, the map would waste memory.
fn maps_of_another_size_are_refused() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let ours = fs::read(set.path(&object_of("linux-5.9")))?;
    let btf = object::File::parse(&ours[..])?
        .section_by_name(".BTF")
        .and_then(|section| section.file_range())
        .context("no section .BTF")?;
    let btf = btf.0 as usize..(btf.0 + btf.1) as usize;
    // BTF encodes the number of map entries as the length of an array type. The length is the last
    // word of that type. Other words may have the same value, so try each word with this value.
    let entries = abi::LAMINAR_STATS_ENTRIES.to_ne_bytes();
    let words = btf.clone().step_by(4).filter(|at| ours[*at..].starts_with(&entries));
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
    assert_eq!(refused, 1, "exactly one changed word must lead to the error about `stats`");
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

/// The loader refuses truncated objects. The loader may accept an object with a flipped bit if the
/// damage is harmless: without a manifest, no checksum shows the damage.
fn damaged_objects_neither_panic_nor_stay_attached() -> Result<()> {
    let (set, net) = (ObjectSet::new()?, TestNet::new()?);
    fs::remove_file(set.path(Manifest::FILE_NAME))?;
    let good = fs::read(set.path(&object_of("linux-5.9")))?;
    let lengths = (0..good.len()).step_by(499);
    for length in lengths.clone() {
        fs::write(set.path("lone.o"), &good[..length])?;
        set.load_error(&net, "lone.o");
    }
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    // Try fewer mutations on an emulated machine, where the verifier is slow.
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
        "damaged objects without a manifest: {} truncated, none loaded; of {mutations} \
         with a wrong bit the kernel loaded {loaded}",
        lengths.count()
    ));
    Ok(())
}
