//! Files and folders to and from the nodes, and what can be wrong with their places.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use cc_driver::prelude::*;
use cc_driver::{NodeIndex, WorkerId};
use cc_tests::functions::*;
use cc_tests::site::Site;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

fn contract(nodes: u32, shared: bool) -> Contract {
    let mut contract = Contract::new().node_count(nodes).worker_slots(1);
    contract.settings_mut().shared_store = Some(shared);
    contract
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[expect(clippy::unwrap_used, reason = "a scenario cannot go on without it")]
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn files_travel_both_ways() -> anyhow::Result<()> {
    for shared in [true, false] {
        let site = site();
        let cluster = site
            .driver()
            .deploy(&contract(3, shared).resolve()?)
            .await?;
        let here = site.path().join("here");
        fs::create_dir(&here)?;
        let back = |name: &str| here.join(format!("back-{name}"));

        // Every size, empty included, to every node; with its permission bits.
        for (name, length, bits) in [
            ("empty", 0, 0o600),
            ("small", 10, 0o640),
            ("program", 100_000, 0o755),
            ("large", 5_000_000, 0o444),
        ] {
            let file = here.join(name);
            fs::write(&file, pattern(length))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(bits))?;
            cluster.upload(&file, format!("in/{name}")).await?;
            for node in 0..3 {
                let target = back(&format!("{name}-{node}"));
                let path = format!("in/{name}");
                let bytes = cluster.download(NodeIndex(node), &*path, &target).await?;
                assert_eq!(bytes, length);
                assert!(fs::read(&target)? == pattern(length), "{name}");
                assert_eq!(mode(&target), bits, "{name}");
            }
            let found = cluster
                .everywhere(mode_of::task(format!("in/{name}")))
                .await?;
            assert!(found.iter().all(|m| m.as_ref() == Ok(&bits)), "{found:?}");
        }

        // Over what is there already, in both directions; the workers see it.
        let file = here.join("words");
        for words in ["first", "second and longer", "3rd"] {
            fs::write(&file, words)?;
            cluster.upload(&file, "words").await?;
            let read = cluster.everywhere(read_file::task("words".into())).await?;
            assert!(read.iter().all(|r| r.as_deref() == Ok(words)), "{read:?}");
            cluster
                .download(NodeIndex(1), "words", back("words"))
                .await?;
            assert_eq!(fs::read_to_string(back("words"))?, words);
        }
        // A node's own change is its own: content is not shared between files.
        let second = cluster.worker(WorkerId(3)).unwrap();
        second
            .call(write_file::task("words".into(), "mine".into()))
            .await??;
        let read = cluster.everywhere(read_file::task("words".into())).await?;
        let read: Vec<String> = read.into_iter().map(Result::unwrap).collect();
        assert_eq!(read, ["3rd", "mine", "3rd"]);
        cluster.upload(&file, "other-words").await?;
        let read = cluster
            .everywhere(read_file::task("other-words".into()))
            .await?;
        assert!(read.iter().all(|r| r.as_deref() == Ok("3rd")), "{read:?}");

        // An absolute path: one place here, as all nodes are on this machine.
        let absolute = site.path().join("there/deep/file");
        cluster.upload(&file, text(&absolute)).await?;
        assert_eq!(fs::read_to_string(&absolute)?, "3rd");
        cluster
            .download(NodeIndex(2), text(&absolute), back("absolute"))
            .await?;
        assert_eq!(fs::read_to_string(back("absolute"))?, "3rd");

        // A folder with folders, an empty one, a link and a program in it.
        let folder = here.join("folder");
        fs::create_dir_all(folder.join("a/b"))?;
        fs::create_dir(folder.join("empty"))?;
        fs::write(folder.join("a/b/data"), pattern(300_000))?;
        fs::write(folder.join("run"), "#!/bin/sh\n")?;
        fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755))?;
        symlink("run", folder.join("link"))?;
        cluster.upload(&folder, "tree").await?;
        cluster.upload(&folder, "tree").await?;
        cluster.download(NodeIndex(2), "tree", back("tree")).await?;
        let tree = back("tree");
        assert!(fs::read(tree.join("a/b/data"))? == pattern(300_000));
        assert!(tree.join("empty").is_dir());
        assert_eq!(mode(&tree.join("run")), 0o755);
        assert_eq!(fs::read_link(tree.join("link"))?, PathBuf::from("run"));
        let one = cluster
            .everywhere(read_file::task("tree/run".into()))
            .await?;
        assert!(one.iter().all(|r| r.as_deref() == Ok("#!/bin/sh\n")));

        cluster
            .upload_with_progress(&file, "shown", "sending")
            .await?;
        cluster.terminate().await?;
        assert_eq!(site.processes(), []);
    }
    Ok(())
}

#[tokio::test]
async fn places_that_cannot_be() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(2, false).resolve()?).await?;
    let file = site.path().join("file");
    fs::write(&file, "x")?;
    let says = |result: Result<(), DriverError>, parts: &[&str]| {
        let error = result.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    };

    // Nothing to send, nothing to get.
    let missing = site.path().join("missing");
    says(
        cluster.upload(&missing, "x").await,
        &[&text(&missing), "No such file"],
    );
    let got = cluster.download(NodeIndex(1), "no/such", site.path().join("got"));
    says(got.await.map(drop), &["node 1", "no/such", "No such file"]);
    assert!(!site.path().join("got").exists());
    let got = cluster.download(NodeIndex(7), "x", site.path().join("got"));
    says(got.await.map(drop), &["node 7"]);

    // A directory that nobody can write in, even root; a file where a folder should be; a
    // folder where the file should go. Every node says so.
    says(
        cluster.upload(&file, "/proc/nowhere/x").await,
        &["node 0", "node 1"],
    );
    cluster.upload(&file, "plain").await?;
    says(
        cluster.upload(&file, "plain/x").await,
        &["node 0", "node 1"],
    );
    let folder = site.path().join("folder/inner");
    fs::create_dir_all(&folder)?;
    cluster.upload(folder.parent().unwrap(), "dir").await?;
    says(
        cluster.upload(&file, "dir/inner").await,
        &["node 0", "node 1"],
    );
    // Here it cannot be put either.
    let got = cluster.download(NodeIndex(0), "plain", "/proc/nowhere/x");
    says(got.await.map(drop), &["/proc/nowhere"]);
    let got = cluster.download(NodeIndex(0), "plain", file.join("x"));
    assert!(got.await.is_err());

    // Nothing was harmed by any of it.
    cluster
        .download(NodeIndex(1), "plain", site.path().join("got"))
        .await?;
    assert_eq!(fs::read_to_string(site.path().join("got"))?, "x");
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}

/// A file system of one mebibyte, for as long as it lives.
struct Small(PathBuf);

impl Small {
    #[expect(clippy::unwrap_used, reason = "a scenario cannot go on without it")]
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let none = MsFlags::empty();
        mount(Some("small"), &path, Some("tmpfs"), none, Some("size=1m")).unwrap();
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_named() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return Ok(());
    }
    let site = site();
    let small = Small::new(site.path().join("small"));
    let cluster = site.driver().deploy(&contract(2, true).resolve()?).await?;
    let file = site.path().join("file");
    // Not to be compressed away.
    let noise: Vec<u8> = (0..3_000_000u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8)
        .collect();
    fs::write(&file, &noise)?;
    let target = small.0.join("target");
    let error = cluster
        .upload(&file, text(&target))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(
        error.contains("node 0") || error.contains("node 1"),
        "{error}"
    );
    // Neither a part of it nor a temporary file stays.
    assert_eq!(fs::read_dir(&small.0)?.count(), 0);
    // On the way back the disk here is full.
    cluster.upload(&file, "fits").await?;
    let got = cluster.download(NodeIndex(0), "fits", small.0.join("got"));
    let error = got.await.unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(fs::read_dir(&small.0)?.count(), 0);
    fs::write(site.path().join("little"), "x")?;
    cluster
        .upload(site.path().join("little"), text(&target))
        .await?;
    assert_eq!(fs::read(&target)?, b"x");
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}
