//! protobuf's own conformance suite with the gateway: Google's runner produces the cases, and this program sends them
//! to a real gateway over REST and Connect. `.ci/conformance` installs the runner and runs this program.
//!
//! It is two programs in one. Started directly, it boots a gateway in front of a backend and starts the runner. The
//! runner then starts it again as the program under test: it reads cases from its standard input, calls the gateway and
//! writes the results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, reason = "tests")]
// The other tests use more of the modules that boot a gateway.
#![allow(dead_code)]

#[path = "gateway/boot.rs"]
mod boot;
#[path = "conformance/cases.rs"]
mod cases;
#[path = "gateway/echo.rs"]
mod echo;
#[path = "conformance/loopback.rs"]
mod loopback;

use std::{env, path::Path, process::Stdio, time::Duration};

use souk_common::contract::Contract;
use tokio::{process::Command, time::timeout};

use self::cases::Protocol;

/// The variables with the runner that `.ci/conformance` installs, and with the folder of the package's `.proto` files.
const RUNNER: &str = "SOUK_CONFORMANCE_RUNNER";
const INCLUDE: &str = "SOUK_CONFORMANCE_INCLUDE";
/// If these variables are set, the program is the one under test.
const PROTOCOL: &str = "SOUK_CONFORMANCE_PROTOCOL";
const GATEWAY: &str = "SOUK_CONFORMANCE_GATEWAY";

/// A run takes seconds; this is the limit.
const LONGEST: Duration = Duration::from_secs(240);

/// The minimum number of cases: with fewer, the suite has lost some.
const FEWEST: u32 = 770;

#[tokio::main]
async fn main() {
    if let (Ok(protocol), Ok(gateway)) = (env::var(PROTOCOL), env::var(GATEWAY)) {
        return cases::answer(Protocol::named(&protocol), &gateway).await;
    }
    let missing = |name| panic!("{name} is not set: run .ci/conformance, which installs Google's runner");
    let runner = env::var(RUNNER).unwrap_or_else(|_| missing(RUNNER));
    let include = env::var(INCLUDE).unwrap_or_else(|_| missing(INCLUDE));

    let descriptors = compile(Path::new(&include));
    let backend = loopback::serve(&Contract::load(&descriptors).unwrap()).await;
    let settings = [("gateway.rate_limits.enabled", "false")];
    let souk = boot::boot_contract(&descriptors, &settings, |_| backend).await;
    let mut passed = true;
    for protocol in [Protocol::Rest, Protocol::Connect] {
        passed &= run(&runner, protocol, &souk.url).await;
    }
    assert!(passed, "the differences are not those of services/gateway/tests/conformance/differences.txt");
}

/// Compiles the contract of the suite, with the messages of the package.
fn compile(include: &Path) -> Vec<u8> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance");
    let includes = [own.into(), root.into(), format!("{root}/third_party").into(), include.to_owned()];
    let mut compiler = protox::Compiler::new(includes).unwrap();
    let opened = compiler.include_imports(true).open_file("conformance_service.proto");
    opened.unwrap_or_else(|error| panic!("{error:?}"));
    compiler.encode_file_descriptor_set()
}

/// Lets the runner send all cases over one protocol. Returns whether only the known failures failed.
async fn run(runner: &str, protocol: Protocol, gateway: &str) -> bool {
    let scratch = tempfile::tempdir().unwrap();
    let differences = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/differences.txt");
    let started = std::time::Instant::now();
    let child = Command::new(runner)
        .args(["--enforce_recommended", "--maximum_edition", "PROTO3", "--failure_list", differences])
        .arg("--output_dir")
        .arg(scratch.path())
        .arg(env::current_exe().unwrap())
        .env(PROTOCOL, protocol.name())
        .env(GATEWAY, gateway)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{runner} cannot be started: {error}"));
    let ended = timeout(LONGEST, child.wait_with_output()).await.expect("the runner ends in time").unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    // The runner also has a suite for protobuf's text format, which this program skips completely.
    let Some(counted) = said.lines().filter_map(Counted::read).find(|counted| counted.run() > 0) else {
        panic!("the runner counted no case ({}):\n{said}", ended.status);
    };
    println!(
        "conformance over {}: {} cases run, {} passed, {} differ as expected, {} unexpectedly ({:.1} s)",
        protocol.name(),
        counted.run(),
        counted.passed,
        counted.expected,
        counted.unexpected,
        started.elapsed().as_secs_f64(),
    );
    let good = ended.status.success() && counted.unexpected == 0 && counted.run() >= FEWEST;
    if !good {
        eprintln!("{said}");
    }
    good
}

/// The counts in the runner's last line.
struct Counted {
    passed: u32,
    expected: u32,
    unexpected: u32,
}

impl Counted {
    /// Parses `CONFORMANCE SUITE PASSED: 0 successes, 2779 skipped, 0 expected failures, 0 unexpected failures.`
    fn read(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("CONFORMANCE SUITE ")?.split_once(": ")?;
        let mut numbers = counts.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        let (passed, _skipped) = (numbers.next()??, numbers.next()??);
        Some(Self { passed, expected: numbers.next()??, unexpected: numbers.next()?? })
    }

    fn run(&self) -> u32 {
        self.passed + self.expected + self.unexpected
    }
}
