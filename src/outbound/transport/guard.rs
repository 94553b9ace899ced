//! Which addresses a host may be dialled at: looked up for every dial, all of them validated, one bad one
//! refuses. And the dial itself, straight or through the egress proxy.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::config::EgressProxy;
use crate::domain::delivery::slots;
use crate::domain::webhook::target::TargetPolicy;
use crate::tunnel::tunnel;

/// Longest wait for the resolver; an attempt has more to do within its deadline.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried at most.
const ADDRESSES_MAX: usize = 4;
/// Connections that are kept at most though nobody uses them, those of all webhooks together: each is an open
/// file of the process. As many as may be in use.
const KEPT_MAX: usize = slots::ALL;

/// Why there is nothing to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The host has no address.
    #[error("the host has no address")]
    NoAddress,
    /// Whoever knows the addresses does not tell.
    #[error("the host cannot be looked up")]
    NotResolved(LookUpError),
    /// An address is not allowed.
    #[error("the host leads to an address that is not allowed")]
    Refused,
}

/// Why the addresses of a name are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// There is no such name.
    #[error("no such name")]
    NoSuchName,
    /// The name server could not be asked, or failed.
    #[error("the name server failed")]
    ServerFailed,
    /// It did not answer in time.
    #[error("the name server does not answer")]
    TimedOut,
}

/// Addresses of a name, or why there are none.
pub type Addresses = Result<Vec<IpAddr>, LookUpError>;

/// Asks for the addresses of a name.
pub type LookUp = fn(String) -> Pin<Box<dyn Future<Output = Addresses> + Send>>;

/// Where the addresses of a name will be.
type Found = watch::Receiver<Option<Addresses>>;

/// Asks the system's resolver.
pub fn ask_the_system(name: String) -> Pin<Box<dyn Future<Output = Addresses> + Send>> {
    Box::pin(async move {
        let found = lookup_host((name, 0)).await.map_err(|error| why_not_found(&error.to_string()))?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// The resolver's number is not told, only the text that stands for it: these are glibc's and musl's for
/// names that do not exist, or have no address.
fn why_not_found(text: &str) -> LookUpError {
    let no_such = [
        "Name or service not known",
        "No address associated with",
        "Name does not resolve",
        "Name has no usable address",
    ];
    if no_such.iter().any(|known| text.contains(known)) {
        LookUpError::NoSuchName
    } else {
        LookUpError::ServerFailed
    }
}

/// Looks hosts up and validates their addresses. Clones share the questions under way.
///
/// A name is asked for once at a time and everybody who waits for it shares the answer. The system's resolver
/// holds a thread until it gives up, long after we have, and there are 512 of them: hosts whose name servers
/// hang would otherwise take them all by their many lanes, and no other host could be looked up.
#[derive(Clone)]
pub struct Guard {
    policy: TargetPolicy,
    look_up: LookUp,
    /// Longest wait for an answer.
    within: Duration,
    /// Names that are being asked for, and where the answer will be.
    under_way: Arc<Mutex<HashMap<String, Found>>>,
    /// The only way out, if there is one.
    proxy: Option<Arc<EgressProxy>>,
    /// Places of connections that are kept, whoever's they are.
    places: Arc<Semaphore>,
}

impl Guard {
    pub fn new(policy: TargetPolicy, look_up: LookUp) -> Self {
        let places = Arc::new(Semaphore::new(KEPT_MAX));
        Self { policy, look_up, within: RESOLVE_WITHIN, under_way: Arc::default(), proxy: None, places }
    }

    /// Places of connections that are kept.
    pub fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// The same, by way of a proxy.
    pub fn through(self, proxy: Option<EgressProxy>) -> Self {
        Self { proxy: proxy.map(Arc::new), ..self }
    }

    /// Opens a connection to an address that [`resolve`](Self::resolve) gave. A proxy is told that address,
    /// not the name, so that it cannot come to another one. The caller gives up `within` this time.
    ///
    /// # Errors
    /// If there is none to be had.
    pub async fn dial(&self, address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
        match &self.proxy {
            Some(proxy) => tunnel(proxy, address, within).await,
            None => TcpStream::connect(address).await,
        }
    }

    /// Addresses at which `host` (a name, or an address with or without brackets) may be dialled now.
    ///
    /// # Errors
    /// [`GuardError`].
    pub async fn resolve(&self, https: bool, host: &str, port: u16) -> Result<Vec<SocketAddr>, GuardError> {
        let bare = without_brackets(host);
        let found = match bare.parse() {
            Ok(ip) => vec![ip],
            Err(_) => self.ask(bare).await.map_err(GuardError::NotResolved)?,
        };
        if found.is_empty() {
            return Err(GuardError::NoAddress);
        }
        if found.iter().any(|ip| self.policy.check_address(https, *ip, port).is_err()) {
            return Err(GuardError::Refused);
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn ask(&self, name: &str) -> Addresses {
        let mut answer = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            match under_way.get(name) {
                Some(answer) => answer.clone(),
                None => {
                    let (tell, answer) = watch::channel(None);
                    under_way.insert(name.to_owned(), answer.clone());
                    tokio::spawn(self.clone().find(name.to_owned(), tell));
                    answer
                }
            }
        };
        match timeout(self.within, answer.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or(Err(LookUpError::ServerFailed)),
            Ok(Err(_)) => Err(LookUpError::ServerFailed),
            Err(_) => Err(LookUpError::TimedOut),
        }
    }

    /// Runs as a task of its own: it must go on when those who asked have given up, or the thread would be
    /// held and the next one to ask would take another.
    async fn find(self, name: String, tell: watch::Sender<Option<Addresses>>) {
        let found = (self.look_up)(name.clone()).await;
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        tell.send_replace(Some(found));
    }
}

/// An IPv6 address as a URL writes it, without its brackets; anything else as it is.
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn guard(allowed: &[&str], look_up: LookUp) -> Guard {
        let allowed = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Guard::new(TargetPolicy::new(allowed), look_up)
    }

    /// `a-b.test` has the addresses a and b; what is no address is left out.
    fn written_in_the_name(name: String) -> Pin<Box<dyn Future<Output = Addresses> + Send>> {
        let found = name.trim_end_matches(".test").split('-').filter_map(|text| text.parse().ok()).collect();
        Box::pin(std::future::ready(Ok(found)))
    }

    #[tokio::test]
    async fn one_bad_address_refuses_the_host() {
        let guard = guard(&["10.0.0.0/8"], written_in_the_name);
        for (https, host, expected) in [
            (true, "93.184.216.34.test", Ok(1)),
            (true, "93.184.216.34-10.0.0.1.test", Ok(2)),
            (false, "10.0.0.1.test", Ok(1)),
            (true, "93.184.216.34-127.0.0.1.test", Err(GuardError::Refused)),
            (true, "93.184.216.34-::ffff:10.0.0.1.test", Err(GuardError::Refused)),
            (false, "10.0.0.1-93.184.216.34.test", Err(GuardError::Refused)),
            (true, "1.1.1.1-1.1.1.2-1.1.1.3-1.1.1.4-1.1.1.5.test", Ok(4)),
            (true, "1.1.1.1-1.1.1.2-1.1.1.3-1.1.1.4-10.0.0.1-::1.test", Err(GuardError::Refused)),
            (true, "none.test", Err(GuardError::NoAddress)),
            (true, "[::1]", Err(GuardError::Refused)),
            (true, "169.254.169.254", Err(GuardError::Refused)),
        ] {
            let found = guard.resolve(https, host, 443).await;
            assert_eq!(found.map(|found| found.len()), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn the_systems_resolver_is_asked_and_its_answer_validated() {
        let closed = guard(&[], ask_the_system);
        assert_eq!(closed.resolve(true, "localhost", 80).await, Err(GuardError::Refused));
        let open = guard(&["127.0.0.0/8", "::1/128"], ask_the_system);
        assert!(open.resolve(false, "localhost", 80).await.is_ok());
        // A label over 63 letters has no address anywhere, and no name server need be asked to know.
        let nowhere = "x".repeat(64);
        let unknown = GuardError::NotResolved(LookUpError::NoSuchName);
        assert_eq!(open.resolve(true, &nowhere, 80).await, Err(unknown));
    }

    #[test]
    fn a_name_that_is_none_is_told_apart_from_a_server_that_fails() {
        let failed = "failed to lookup address information: ";
        for (text, expected) in [
            ("Name or service not known", LookUpError::NoSuchName),
            ("No address associated with hostname", LookUpError::NoSuchName),
            ("Name does not resolve", LookUpError::NoSuchName),
            ("Temporary failure in name resolution", LookUpError::ServerFailed),
            ("Try again", LookUpError::ServerFailed),
            ("Non-recoverable failure in name resolution", LookUpError::ServerFailed),
        ] {
            assert_eq!(why_not_found(&format!("{failed}{text}")), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_hangs_is_asked_for_once_however_many_wait() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let mut guard = guard(&[], |_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        });
        guard.within = Duration::from_millis(20);
        for _ in 0..3 {
            let askers = (0..100).map(|_| guard.resolve(true, "slow.test", 443));
            for found in futures_util::future::join_all(askers).await {
                assert_eq!(found, Err(GuardError::NotResolved(LookUpError::TimedOut)));
            }
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_old_answer_is_never_used_again() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let guard = guard(&[], |_| {
            let inner = ASKED.fetch_add(1, Ordering::SeqCst) > 0;
            let found = if inner { [10, 0, 0, 1] } else { [1, 1, 1, 1] };
            Box::pin(std::future::ready(Ok(vec![found.into()])))
        });
        assert!(guard.resolve(true, "turncoat.test", 443).await.is_ok());
        assert_eq!(guard.resolve(true, "turncoat.test", 443).await, Err(GuardError::Refused));
    }
}
