use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cc_core::ids::ContentHash;
use cc_core::net::framed;
use cc_core::wire::stream::{Put, StreamHeader, Transfer};

use super::testing::{Agent, Cluster, Manner, content, peer, place, put_of};
use crate::client::{self, TransferError};

const MIB: usize = 1 << 20;

fn only_has(agent: &Agent, contents: &[&[u8]]) {
    let store = &agent.node.store;
    for content in contents {
        let found = fs::read(store.path(ContentHash::of(content))).unwrap();
        assert!(found == *content);
    }
    let count = fs::read_dir(store.directory()).unwrap().count();
    assert_eq!(count, contents.len(), "{}", agent.node.node);
}

/// Sends bytes as they are, in the place of compressed content.
async fn put_raw(connection: &quinn::Connection, put: Put, raw: &[u8]) -> Option<Transfer> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    framed::write_header(&mut send, &StreamHeader::Put(put))
        .await
        .unwrap();
    let first = framed::read_value::<Transfer>(&mut recv).await.unwrap();
    assert!(matches!(first, Some(Transfer::Data { .. })), "{first:?}");
    // It may stop reading before the end.
    let _ = send.write_all(raw).await;
    let _ = send.finish();
    framed::read_value(&mut recv).await.unwrap()
}

#[tokio::test]
async fn content_is_stored_placed_and_not_sent_twice() {
    let cluster = Cluster::new();
    let agent = cluster.agent(0, Manner::Good);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let content = content(5 * MIB + 17);
    let parts: Vec<Bytes> = content
        .chunks(777_777)
        .map(Bytes::copy_from_slice)
        .collect();

    let mut told = Vec::new();
    let mut put = put_of(&content);
    let report = client::put(&connection, put.clone(), parts.clone(), |n| told.push(n));
    let report = report.await.unwrap();
    assert!(!report.present && report.sent < put.length * 6 / 10);
    assert!(told.is_sorted() && told.last() == Some(&put.length));
    only_has(&agent, &[&content]);

    put.place = place("deep/file", 0o640);
    let file = tempfile::tempfile().unwrap();
    let report = client::put(&connection, put.clone(), file, |n| told.push(n)).await;
    let report = report.unwrap();
    assert!(report.present && report.sent == 0);
    let placed = agent.node.base.join("deep/file");
    assert!(fs::read(&placed).unwrap() == content);
    let mode = fs::metadata(&placed).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    // What was damaged is sent again.
    let stored = agent.node.store.path(put.hash);
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, b"cut").unwrap();
    let report = client::put(&connection, put, parts, |_| {}).await.unwrap();
    assert!(!report.present);
    only_has(&agent, &[&content]);

    let empty = client::put(&connection, put_of(b""), Bytes::new(), |_| {}).await;
    empty.unwrap();
    only_has(&agent, &[&content, b""]);
}

#[tokio::test]
async fn a_tree_reaches_every_node_once() {
    let cluster = Cluster::new();
    let agents: Vec<Agent> = (0..9).map(|n| cluster.agent(n, Manner::Good)).collect();
    let content = content(3 * MIB);
    let mut put = put_of(&content);
    put.onward = agents[1..].iter().map(peer).collect();
    put.place = place("tool", 0o555);
    let placed = || -> Vec<bool> {
        let exists = |agent: &Agent| agent.node.base.join("tool").exists();
        agents.iter().map(exists).collect()
    };
    // No agent makes another one's files.
    let first_only: Vec<bool> = (0..9).map(|n| n == 0).collect();
    let (_endpoint, connection) = cluster.connect(&agents[0]).await;
    let source = Bytes::from(content.clone());
    let report = client::put(&connection, put.clone(), source, |_| {}).await;
    assert!(report.unwrap().sent < 2 * MIB as u64);
    assert_eq!(placed(), first_only);
    for agent in &agents {
        only_has(agent, &[&content]);
        assert_eq!(agent.accepted.load(Ordering::Relaxed), 1);
    }

    // Present at some, and not at others below and above them.
    fs::remove_file(agents[0].node.base.join("tool")).unwrap();
    for missing in [2, 3, 6] {
        fs::remove_file(agents[missing].node.store.path(put.hash)).unwrap();
    }
    let report = client::put(&connection, put.clone(), Bytes::new(), |_| {}).await;
    assert!(report.unwrap().present);
    assert_eq!(placed(), first_only);
    for agent in &agents {
        only_has(agent, &[&content]);
    }
    fs::remove_file(agents[0].node.store.path(put.hash)).unwrap();
    fs::remove_file(agents[8].node.store.path(put.hash)).unwrap();
    let source = Bytes::from(content.clone());
    client::put(&connection, put, source, |_| {}).await.unwrap();
    for agent in &agents {
        only_has(agent, &[&content]);
    }
}

#[tokio::test]
async fn nodes_that_fail_are_named_and_the_others_are_served() {
    let cluster = Cluster::new();
    let manners = |n| match n {
        // Both heads below node 0, and one further down.
        1 => Manner::Refusing,
        5 | 6 => Manner::Dying,
        _ => Manner::Good,
    };
    let agents: Vec<Agent> = (0..9).map(|n| cluster.agent(n, manners(n))).collect();
    // Node 0 cannot place it, and passes it on nevertheless.
    fs::write(agents[0].node.base.join("deep"), b"").unwrap();
    let content = content(3 * MIB);
    let mut put = put_of(&content);
    put.onward = agents[1..].iter().map(peer).collect();
    put.place = place("deep/tool", 0o644);
    let (_endpoint, connection) = cluster.connect(&agents[0]).await;
    let source = Bytes::from(content.clone());
    let result = client::put(&connection, put, source, |_| {}).await;
    let Err(TransferError::Node(text)) = result else {
        panic!("{result:?}");
    };
    let errors: Vec<&str> = text.split("; ").collect();
    assert_eq!(errors.len(), 4, "{text}");
    for error in [
        "node 1: connecting",
        "node 0: placing deep/tool: ",
        "node 5: ",
        "node 6: ",
    ] {
        assert!(errors.iter().any(|e| e.starts_with(error)), "{text}");
    }
    assert!(
        text.contains("refused: too busy") && text.contains("dying"),
        "{text}"
    );
    for (n, agent) in agents.iter().enumerate() {
        if manners(n as u32) == Manner::Good {
            only_has(agent, &[&content]);
        }
    }
}

#[tokio::test]
async fn a_node_without_a_disk_still_passes_content_on() {
    let cluster = Cluster::new();
    let agents: Vec<Agent> = (0..4).map(|n| cluster.agent(n, Manner::Good)).collect();
    fs::remove_dir(agents[0].node.store.directory()).unwrap();
    let content = content(3 * MIB);
    let mut put = put_of(&content);
    put.onward = agents[1..].iter().map(peer).collect();
    let (_endpoint, connection) = cluster.connect(&agents[0]).await;
    let source = Bytes::from(content.clone());
    let result = client::put(&connection, put, source, |_| {}).await;
    let text = result.unwrap_err().to_string();
    assert!(
        text.starts_with("node 0: writing to /") && !text.contains(';'),
        "{text}"
    );
    for agent in &agents[1..] {
        only_has(agent, &[&content]);
    }
}

#[tokio::test]
async fn puts_of_the_same_content_at_once_all_succeed() {
    let cluster = Cluster::new();
    let first = cluster.agent(0, Manner::Good);
    let directory = tempfile::tempdir().unwrap();
    let shared = first.node.store.directory().to_owned();
    let second = cluster.agent_with(1, Manner::Good, directory, shared);
    let (_endpoint, to_first) = cluster.connect(&first).await;
    let (_endpoint, to_second) = cluster.connect(&second).await;
    let content = content(2 * MIB);
    let puts = (0..8).map(|n| {
        let connection = if n % 2 == 0 { &to_first } else { &to_second };
        let (connection, put) = (connection.clone(), put_of(&content));
        let source = Bytes::from(content.clone());
        tokio::spawn(async move { client::put(&connection, put, source, |_| {}).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    only_has(&first, &[&content]);
    // What one has, the other has.
    let report = client::put(&to_second, put_of(&content), Bytes::new(), |_| {}).await;
    assert!(report.unwrap().present);
}

#[tokio::test]
async fn content_that_is_not_what_was_announced_is_not_stored() {
    let cluster = Cluster::new();
    let agent = cluster.agent(0, Manner::Good);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let content = content(MIB);
    let compressed = zstd::encode_all(&content[..], 1).unwrap();
    let long = put_of(&content[..MIB - 1]);
    let mut short = put_of(&content);
    short.length += 1;
    let mut wrong = put_of(&content);
    wrong.hash = ContentHash::of(b"something else");
    let cut = &compressed[..compressed.len() - 5];
    let twice = [&compressed[..], &compressed[..]].concat();
    let mut noise = vec![0; MIB];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    // A frame that asks for a window of 2^31 bytes.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    // 1 GiB of zeros, announced as 1 MiB.
    let bomb = zstd::encode_all(&vec![0; 64 * MIB][..], 1).unwrap();
    let right = put_of(&content);
    for (put, raw, why) in [
        (long, &compressed[..], "more than the 1048575 bytes"),
        (short, &compressed, "1048576 bytes instead of the 1048577"),
        (wrong, &compressed, "the content's hash is"),
        (right.clone(), cut, "receiving"),
        (right.clone(), &twice, "more data after the content's end"),
        (right.clone(), &noise, "receiving"),
        (right.clone(), &window, "receiving"),
        (right.clone(), &bomb, "more than the 1048576 bytes"),
        (right.clone(), b"", "receiving"),
    ] {
        let answer = put_raw(&connection, put, raw).await;
        let Some(Transfer::Failed(text)) = answer else {
            panic!("{why}: {answer:?}");
        };
        assert!(text.starts_with("node 0: ") && text.contains(why), "{text}");
    }
    for at in (0..compressed.len()).step_by(compressed.len() / 60) {
        let mut raw = compressed.clone();
        raw[at] ^= 0x55;
        let answer = put_raw(&connection, right.clone(), &raw).await;
        let failed = matches!(&answer, Some(Transfer::Failed(_)));
        assert!(
            failed || agent.node.store.has(right.hash),
            "{at}: {answer:?}"
        );
        let _ = fs::remove_file(agent.node.store.path(right.hash));
    }
    // Broken off, then as it should be.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let header = StreamHeader::Put(right.clone());
    framed::write_header(&mut send, &header).await.unwrap();
    send.write_all(&compressed[..1000]).await.unwrap();
    send.reset(9u32.into()).unwrap();
    while let Ok(Some(_)) = framed::read_value::<Transfer>(&mut recv).await {}
    only_has(&agent, &[]);
    let source = Bytes::from(content.clone());
    client::put(&connection, right, source, |_| {})
        .await
        .unwrap();
    only_has(&agent, &[&content]);
}

/// A file system of 1 MiB. Needs root.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED: a full disk can only be made by root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = Some("size=1m");
        nix::mount::mount(
            Some("none"),
            directory.path(),
            Some("tmpfs"),
            flags,
            options,
        )
        .unwrap();
        Some(Self(directory))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(disk) = TinyDisk::mount() else {
        return;
    };
    let cluster = Cluster::new();
    let directory = tempfile::tempdir().unwrap();
    let store = disk.0.path().join("store");
    let agent = cluster.agent_with(3, Manner::Good, directory, store);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let content = content(8 * MIB);
    let source = Bytes::from(content.clone());
    let result = client::put(&connection, put_of(&content), source.clone(), |_| {}).await;
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with("node 3: writing to "), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    only_has(&agent, &[]);

    // The store has room, the place has not.
    let agent = cluster.agent(4, Manner::Good);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let mut put = put_of(&content);
    let full = disk.0.path().join("file").display().to_string();
    put.place = place(&full, 0o644);
    let result = client::put(&connection, put, source, |_| {}).await;
    let text = result.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("node 4: placing {full}: No space")),
        "{text}"
    );
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 1);

    // And here: what is fetched does not fit.
    fs::write(agent.node.base.join("big"), &content).unwrap();
    let result = client::get(&connection, "big", Path::new(&full), |_, _| {}).await;
    let text = result.unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("writing {full}: No space")),
        "{text}"
    );
    assert_eq!(fs::read_dir(disk.0.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn files_and_folders_come_back() {
    let cluster = Cluster::new();
    let agent = cluster.agent(0, Manner::Good);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let here = tempfile::tempdir().unwrap();
    let content = content(5 * MIB + 3);
    let base = &agent.node.base;
    fs::write(base.join("file"), &content).unwrap();
    fs::set_permissions(base.join("file"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(base.join("empty"), b"").unwrap();

    let mut told = Vec::new();
    let to = here.path().join("new/file");
    let got = client::get(&connection, "file", &to, |n, of| told.push((n, of)));
    assert_eq!(got.await.unwrap(), content.len() as u64);
    assert_eq!(
        told.last(),
        Some(&(content.len() as u64, Some(content.len() as u64)))
    );
    assert!(fs::read(&to).unwrap() == content);
    let mode = fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
    let absolute = base.join("empty").display().to_string();
    let got = client::get(&connection, &absolute, &to, |_, _| {}).await;
    assert_eq!((got.unwrap(), fs::read(&to).unwrap().len()), (0, 0));
    let got = client::get(&connection, "/proc/self/status", &to, |_, _| {}).await;
    assert!(got.unwrap() > 0);

    // A folder there, and back.
    let folder = here.path().join("folder");
    fs::create_dir_all(folder.join("a/b")).unwrap();
    fs::write(folder.join("a/b/c"), &content).unwrap();
    fs::write(folder.join("d"), b"d").unwrap();
    let (file, hash, length) = client::pack_folder(&folder).unwrap();
    let put = Put {
        hash,
        length,
        place: place("there", client::FOLDER),
        onward: Vec::new(),
    };
    client::put(&connection, put, file, |_| {}).await.unwrap();
    assert_eq!(fs::read(base.join("there/d")).unwrap(), b"d");
    let back = here.path().join("back");
    let got = client::get(&connection, "there", &back, |_, _| {}).await;
    assert!(got.unwrap() > content.len() as u64);
    assert!(fs::read(back.join("a/b/c")).unwrap() == content);
    let got = client::get(&connection, "", &back, |_, _| {}).await;
    got.unwrap();
    assert_eq!(fs::read(back.join("there/d")).unwrap(), b"d");
}

#[tokio::test]
async fn what_cannot_be_fetched_is_said_and_nothing_is_left() {
    let cluster = Cluster::new();
    let agent = cluster.agent(2, Manner::Good);
    let (_endpoint, connection) = cluster.connect(&agent).await;
    let here = tempfile::tempdir().unwrap();
    let base = &agent.node.base;
    let to = here.path().join("to");
    nix::unistd::mkfifo(&base.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, why) in [
        ("none", "node 2: opening none: No such file"),
        ("pipe", "node 2: opening pipe: neither"),
        ("/proc/self/mem", "node 2: reading /proc/self/mem: "),
    ] {
        let result = client::get(&connection, path, &to, |_, _| {}).await;
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with(why), "{text}");
    }
    fs::write(base.join("file"), content(8 * MIB)).unwrap();
    fs::write(here.path().join("plain"), b"").unwrap();
    for to in [here.path().join("plain/x"), here.path().to_owned()] {
        let result = client::get(&connection, "file", &to, |_, _| {}).await;
        assert!(
            matches!(result, Err(TransferError::Local("writing", ..))),
            "{result:?}"
        );
    }
    fs::create_dir(base.join("folder")).unwrap();
    fs::write(base.join("folder/x"), content(MIB)).unwrap();
    let result = client::get(&connection, "folder", &here.path().join("plain"), |_, _| {}).await;
    assert!(
        matches!(result, Err(TransferError::Local("writing", ..))),
        "{result:?}"
    );
    // The connection is as good as before.
    client::get(&connection, "file", &to, |_, _| {})
        .await
        .unwrap();
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 2);
}

/// An agent that breaks the rules after the first answer of a get.
#[tokio::test]
async fn data_that_breaks_off_is_not_taken_for_a_file() {
    let whole = zstd::encode_all(&content(MIB)[..], 1).unwrap();
    let mut noise = vec![0; MIB];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let failed = {
        let text = Transfer::Failed("node 9: reading x: input/output error".to_owned());
        let body = cc_core::codec::encode(&text).unwrap();
        [&(body.len() as u32).to_le_bytes()[..], &body].concat()
    };
    let with = |tail: &[u8]| [&whole[..], tail].concat();
    for mode in [0o644, 0o040_755] {
        for (raw, why) in [
            (whole[..1000].to_vec(), "receiving: "),
            (whole.clone(), "receiving: the node broke off"),
            (
                with(b"\xff\xff\xff\xff123"),
                "receiving: the node broke off",
            ),
            (with(&failed), "node 9: reading x"),
            (noise.clone(), "receiving: "),
        ] {
            let result = get_raw(raw, mode).await;
            let text = result.unwrap_err().to_string();
            // An archive that is none is the first thing noticed.
            let none = mode != 0o644 && text.contains("writing");
            assert!(none || text.starts_with(why), "{mode:o}: {text}");
        }
    }
}

async fn get_raw(raw: Vec<u8>, mode: u32) -> Result<u64, TransferError> {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    let mut liar = cluster.agent(0, Manner::Good);
    // An endpoint of its own, with the agent's name.
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = cc_core::net::endpoint::serve(listen, &liar.node.credentials).unwrap();
    liar.address = endpoint.local_addr().unwrap();
    let served = async {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        let length = Some(1);
        let answer = Transfer::Data { length, mode };
        framed::write_value(&mut send, &answer).await.unwrap();
        let _ = send.write_all(&raw).await;
        let _ = send.finish();
        // Keeps the connection; the one who fetches is the one to end this.
        std::future::pending::<()>().await;
    };
    let fetched = async {
        let (_endpoint, connection) = cluster.connect(&liar).await;
        let to = directory.path().join("to");
        let result = client::get(&connection, "x", &to, |_, _| {}).await;
        assert!(!to.is_file());
        assert!(mode != 0o644 || fs::read_dir(directory.path()).unwrap().count() == 0);
        result
    };
    tokio::select! {
        result = fetched => result,
        () = served => unreachable!(),
    }
}
