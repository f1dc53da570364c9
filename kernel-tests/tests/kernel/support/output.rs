//! Output of the tests, and warnings that the code under test logs.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Level;

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Stores a line, which the runner prints after all tests. Printed during the tests, the line would
/// interrupt the list of results.
pub fn note(text: String) {
    NOTES.lock().unwrap().push(text);
}

/// Removes and returns the lines that [`note`] stored.
pub fn take_notes() -> Vec<String> {
    std::mem::take(&mut NOTES.lock().unwrap())
}

/// Runs `work` on this thread. Returns the result of `work` and the warnings that it logged, one
/// warning per element. The process must have called [`enable_warnings`].
pub fn capture_warnings<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let result = tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8_lossy(&buffer.0.lock().unwrap()).into_owned();
    (result, text.lines().map(String::from).collect())
}

/// Installs a subscriber for the whole process, which discards warnings. `tracing` caches for each
/// call site whether any subscriber wants its events. Without a process-wide subscriber, a call
/// site would stay disabled if the first thread that reaches it has no subscriber.
pub fn enable_warnings() {
    let sink = tracing_subscriber::fmt().with_max_level(Level::WARN);
    let sink = sink.with_writer(io::sink).finish();
    tracing::subscriber::set_global_default(sink).expect("no other subscriber is installed");
}
