use std::collections::BTreeMap;
use std::process::Command;

use cc_core::contract::Contract;
use cc_core::ids::NodeIndex;
use cc_core::record::{ClusterState, NodeRecord};

use super::*;

/// Set in a process that plays a part of a test: the state directory, and a handle.
const PART: &str = "CC_TEST_RECORDS";

fn state() -> (tempfile::TempDir, StateDirectory) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::at(directory.path().join("state")).unwrap();
    (directory, state)
}

fn record() -> ClusterRecord {
    record_of(Handle::random())
}

fn record_of(handle: Handle) -> ClusterRecord {
    ClusterRecord {
        version: RECORD_VERSION,
        handle,
        state: ClusterState::Deploying,
        created: 0,
        plan: Contract::new().resolve_locally().unwrap(),
        nodes: vec![NodeRecord {
            node: NodeIndex(0),
            address: None,
            provider_data: serde_json::json!({"directory": "/x"}),
        }],
        worker: None,
        shipped: None,
    }
}

/// This test program again, playing the named test only.
fn again(test: &str) -> Command {
    let module = module_path!().split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}")]);
    command
}

/// Every path below a directory, with its permission bits.
fn modes(directory: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::new();
    let mut rest = vec![directory.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        all.insert(path, metadata.permissions().mode() & 0o777);
    }
    all
}

#[test]
fn a_cluster_is_created_once_changed_and_removed() {
    let (_directory, state) = state();
    assert!(state.list().unwrap().is_empty());
    let record = record();
    let handle = record.handle;
    state.create(&record).unwrap();
    assert_eq!(state.load(handle).unwrap(), record);
    assert!(matches!(state.create(&record), Err(RecordError::Exists(h)) if h == handle));
    let changed = state
        .update(handle, |record| {
            record.state = ClusterState::Running;
            record.handle = Handle::random();
        })
        .unwrap();
    assert_eq!(
        (changed.state, changed.handle),
        (ClusterState::Running, handle)
    );
    assert_eq!(state.load(handle).unwrap(), changed);
    assert_eq!(state.list().unwrap().len(), 1);
    let left = std::fs::read_dir(state.clusters()).unwrap().count();
    assert_eq!(left, 1, "nothing temporary is left");

    std::fs::create_dir_all(state.cluster_directory(handle).join("nodes/0")).unwrap();
    state.remove(handle).unwrap();
    state.remove(handle).unwrap();
    assert!(!state.cluster_directory(handle).exists());
    for error in [
        state.load(handle).unwrap_err(),
        state.update(handle, |_| ()).unwrap_err(),
        state.load_authority(handle).unwrap_err(),
        state.store_authority(handle, "", "").unwrap_err(),
    ] {
        assert!(matches!(error, RecordError::NotFound(_)), "{error}");
        assert!(error.to_string().contains("cctl clusters"), "{error}");
    }
}

#[test]
fn what_cannot_be_read_is_listed_with_the_reason_and_kept() {
    let (_directory, state) = state();
    let good = record();
    state.create(&good).unwrap();
    let path = |handle| state.cluster_directory(handle).join(RECORD);
    let broken = |content: &dyn Fn(&str) -> String| {
        let record = record();
        state.create(&record).unwrap();
        let text = std::fs::read_to_string(path(record.handle)).unwrap();
        std::fs::write(path(record.handle), content(&text)).unwrap();
        record.handle
    };
    let truncated = broken(&|text| text[..text.len() / 2].to_owned());
    let empty = broken(&|_| String::new());
    let garbage = broken(&|_| "not JSON at all".to_owned());
    let newer = broken(&|_| r#"{"version": 7, "shape": "another"}"#.to_owned());
    let others = broken(&|_| serde_json::to_string(&good).unwrap());
    let missing = broken(&|text| text.to_owned());
    std::fs::remove_file(path(missing)).unwrap();
    // Neither is a cluster.
    std::fs::create_dir(state.clusters().join(".new.1")).unwrap();
    std::fs::write(state.clusters().join("README"), "").unwrap();

    let listed: BTreeMap<_, _> = state.list().unwrap().into_iter().collect();
    assert_eq!(listed.len(), 7);
    assert_eq!(listed[&good.handle].as_ref().unwrap(), &good);
    let error = |handle| listed[&handle].as_ref().unwrap_err();
    assert!(matches!(error(truncated), RecordError::Truncated { .. }));
    assert!(matches!(error(empty), RecordError::Truncated { .. }));
    assert!(matches!(error(garbage), RecordError::Malformed { .. }));
    assert!(matches!(error(others), RecordError::Malformed { .. }));
    assert!(matches!(error(missing), RecordError::Malformed { .. }));
    assert!(matches!(
        error(newer),
        RecordError::Newer { version: 7, .. }
    ));
    assert!(error(newer).to_string().contains("newer"));

    for handle in [truncated, empty, garbage, newer, others] {
        let before = std::fs::read(path(handle)).unwrap();
        assert!(state.update(handle, |_| panic!("not read")).is_err());
        assert_eq!(std::fs::read(path(handle)).unwrap(), before);
        // On purpose, it can be.
        state.remove(handle).unwrap();
    }
    assert_eq!(state.list().unwrap().len(), 2);
}

#[test]
fn every_cut_of_a_record_is_an_error() {
    let record = record();
    let text = serde_json::to_vec_pretty(&record).unwrap();
    for end in 0..text.len() {
        let error = decode(PathBuf::new(), record.handle, &text[..end]).unwrap_err();
        assert!(
            matches!(error, RecordError::Truncated { .. }),
            "{end}: {error}"
        );
    }
}

#[test]
fn concurrent_updates_all_count() {
    const THREADS: u64 = 4;
    const PROCESSES: u64 = 2;
    let (_directory, state) = state();
    let record = record();
    state.create(&record).unwrap();
    let processes: Vec<_> = (0..PROCESSES)
        .map(|_| {
            again("plays_a_process_that_updates")
                .env(
                    PART,
                    format!("{} {}", record.handle, state.path().display()),
                )
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| count(&state, record.handle));
        }
        // Readers never see a part of a record.
        scope.spawn(|| (0..100).for_each(|_| drop(state.load(record.handle).unwrap())));
    });
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let created = state.load(record.handle).unwrap().created;
    assert_eq!(created, (THREADS + PROCESSES) * 20);
}

fn count(state: &StateDirectory, handle: Handle) {
    for _ in 0..20 {
        state.update(handle, |record| record.created += 1).unwrap();
    }
}

#[test]
fn plays_a_process_that_updates() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let (handle, path) = part.split_once(' ').unwrap();
    count(&StateDirectory::at(path).unwrap(), handle.parse().unwrap());
}

#[test]
fn a_lock_that_is_kept_is_an_error_and_readers_do_not_mind() {
    let (_directory, mut state) = state();
    state.lock_wait = Duration::from_millis(30);
    let record = record();
    state.create(&record).unwrap();
    let lock = state.lock(record.handle).unwrap();
    let error = state.update(record.handle, |_| ()).unwrap_err();
    assert!(matches!(error, RecordError::Locked { .. }), "{error}");
    assert!(matches!(
        state.remove(record.handle),
        Err(RecordError::Locked { .. })
    ));
    state.load(record.handle).unwrap();
    drop(lock);
    state.update(record.handle, |_| ()).unwrap();
}

#[test]
fn keys_come_back_and_nobody_else_reads_anything() {
    let (_directory, state) = state();
    let record = record();
    let handle = record.handle;
    state.create(&record).unwrap();
    let error = state.load_authority(handle).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
    let credentials = Credentials {
        certificate: "certificate".to_owned(),
        key: "key".to_owned(),
        ca: "ca".to_owned(),
    };
    state.store_authority(handle, "ca", "ca's key").unwrap();
    state.store_credentials(handle, &credentials).unwrap();
    state.update(handle, |_| ()).unwrap();
    let authority = state.load_authority(handle).unwrap();
    assert_eq!(authority, ("ca".to_owned(), "ca's key".to_owned()));
    let loaded = state.load_credentials(handle).unwrap();
    assert_eq!(
        (loaded.certificate, loaded.key, loaded.ca),
        (credentials.certificate, credentials.key, credentials.ca)
    );
    let modes = modes(state.path());
    // State, clusters, the cluster; record, lock, four of keys.
    assert_eq!(modes.len(), 9, "{modes:?}");
    for (path, mode) in modes {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[test]
fn the_beginning_of_a_handle_is_enough() {
    let (_directory, state) = state();
    let named = |name: &str| {
        let handle: Handle = name.parse().unwrap();
        state.create(&record_of(handle)).unwrap();
        handle
    };
    let first = named("aaaabbbbccccddd");
    assert!(state.resolve_handle("").is_err());
    let second = named("aabbbbbbccccddd");
    assert_eq!(state.resolve_handle("aaa").unwrap(), first);
    assert_eq!(state.resolve_handle("aab").unwrap(), second);
    assert_eq!(state.resolve_handle(first.as_str()).unwrap(), first);
    let error = state.resolve_handle("aa").unwrap_err().to_string();
    assert!(
        error.contains(first.as_str()) && error.contains(second.as_str()),
        "{error}"
    );
    for nobody in ["b", "AAA", "../", "aaaabbbbccccdddd"] {
        let error = state.resolve_handle(nobody).unwrap_err();
        assert!(matches!(error, RecordError::NotFound(_)), "{error}");
    }
}

#[test]
fn somebody_elses_directory_is_refused() {
    if !nix::unistd::Uid::effective().is_root() {
        // Nobody else can give a directory away; `/` is somebody else's already.
        assert!(matches!(
            StateDirectory::at("/"),
            Err(RecordError::Foreign { owner: 0, .. })
        ));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
    let error = StateDirectory::at(directory.path()).unwrap_err();
    assert!(
        matches!(error, RecordError::Foreign { owner: 12_345, .. }),
        "{error}"
    );
}

#[test]
fn the_environment_says_where() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    let check = |variables: &[(&str, &Path)], state: &str| {
        let output = again("plays_a_process_that_discovers")
            .env_remove("CC_STATE_DIR")
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_DATA_HOME")
            .env("HOME", home)
            .envs(variables.iter().copied())
            .env(PART, home.join(state))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{variables:?}: {text}");
        assert!(home.join(state).is_dir());
    };
    check(&[], ".local/state/cloudclusters");
    check(
        &[("XDG_STATE_HOME", &home.join("xdg"))],
        "xdg/cloudclusters",
    );
    let ours = ("CC_STATE_DIR", &*home.join("ours"));
    check(&[("XDG_STATE_HOME", &home.join("xdg")), ours], "ours");
    check(
        &[("CC_STATE_DIR", Path::new(""))],
        ".local/state/cloudclusters",
    );
}

#[test]
fn plays_a_process_that_discovers() {
    let Some(expected) = std::env::var_os(PART) else {
        return;
    };
    let state = StateDirectory::discover().unwrap();
    assert_eq!(state.path(), Path::new(&expected));
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let agent = StateDirectory::agents("riscv64").unwrap();
    assert!(agent.starts_with(home.join(".local/share/cloudclusters/agents")));
    assert!(agent.ends_with("riscv64/cc-agent"));
}
