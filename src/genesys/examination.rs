//! Goes the way of a source step by step and says of each what is wrong and what to do about it: for
//! `presence-bridge doctor` and for examinations over the API. It needs no database and changes nothing
//! upstream that lasts: the channel that it makes lapses.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::ClientSettings;
use super::plan::{CHANNEL_AGENTS_MAX, CHANNELS_MAX, REALTIME_CONNECTIONS_MAX};
use super::protocol::{
    ConnectionSpec, Frame, Listed, Person, Provisioned, Rejected, Token, Upstream, UpstreamError, Watch,
};
use super::socket::Incoming;
use crate::config::EgressProxy;
use crate::domain::plural::plural;
use crate::domain::presence::examination::{Finding, Step, Trouble};
use crate::domain::presence::remedies::remedy;
use crate::domain::presence::source::{PROTOCOL_NOTIFICATIONS, SourceSettings};
use crate::domain::presence::topics;
use crate::domain::webhook::target::TargetPolicy;

/// How long the socket may take to answer a ping.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Agents that a line names.
const NAMED_MAX: usize = 5;

/// What a socket said to our ping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Pong,
    /// The channel behind it is gone.
    End,
    Nothing,
}

/// The examination of one source.
struct Examination<'a, F> {
    settings: &'a SourceSettings,
    upstream: &'a dyn Upstream,
    tell: F,
}

/// Examines a source and tells each step as it is done. `targets`: which addresses may be dialled; `None`:
/// all. `proxy`: the only way to them; `None`: straight.
///
/// # Errors
/// If TLS cannot be set up.
pub async fn examine(
    settings: &SourceSettings,
    targets: Option<TargetPolicy>,
    proxy: Option<EgressProxy>,
    mut tell: impl FnMut(Step),
) -> Result<(), rustls::Error> {
    let client = ClientSettings {
        protocol: settings.protocol.clone(),
        region: settings.region.clone(),
        api_url: settings.api_url.clone(),
        login_url: settings.login_url.clone(),
        client_id: settings.client_id.clone(),
        client_secret: settings.client_secret.clone(),
        language: settings.language.clone(),
        targets,
        proxy,
        calls: None,
    };
    let upstream = client.upstream(std::rc::Rc::default())?;
    let (api_url, login_url) = client.addresses();
    let mut words = format!("{}, {api_url}, tokens from {login_url}", settings.protocol);
    if let Some(proxy) = &client.proxy {
        words.push_str(&format!(", all through the proxy {}:{}", proxy.host, proxy.port));
    }
    tell(Step { name: "settings", finding: Finding::Good(words) });
    let mut examination = Examination { settings, upstream: &*upstream, tell };
    if let Some(opened) = client.try_proxy().await {
        let good = |to: &String| Finding::Good(format!("opens connections to {to}"));
        if examination.tell("proxy", opened, good).is_none() {
            return Ok(());
        }
    }
    examination.run().await;
    Ok(())
}

impl<F: FnMut(Step)> Examination<'_, F> {
    fn say(&mut self, name: &'static str, finding: Finding) {
        (self.tell)(Step { name, finding });
    }

    /// Tells what came of a call; gives its answer if there is one.
    fn tell<T>(
        &mut self,
        step: &'static str,
        answer: Result<T, UpstreamError>,
        good: impl FnOnce(&T) -> Finding,
    ) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.say(step, good(&answer));
                Some(answer)
            }
            Err(error) => {
                self.say(step, Finding::Bad(trouble(step, error)));
                None
            }
        }
    }

    /// Each step needs the one before it.
    async fn run(&mut self) {
        let answer = self.upstream.token().await;
        let good = |token: &Token| Finding::Good(format!("a token for {} s", token.lifetime.as_secs()));
        let Some(token) = self.tell("login", answer, good) else { return };
        let answer = self.upstream.verify(&token.secret).await;
        let good = |id: &String| Finding::Good(format!("accepted as {id}"));
        if self.tell("token", answer, good).is_none() {
            return;
        }
        let planned = self.settings.protocol == PROTOCOL_NOTIFICATIONS;
        let people = if planned { self.people(&token).await } else { self.settings.agents.clone() };
        if people.is_empty() {
            return;
        }
        self.channels_in_use(&token, planned).await;
        let wanted = self.wanted(&people, planned);
        let answer = self.upstream.provision(&token.secret, &wanted).await;
        let good = |made: &Provisioned| allowed(&wanted.agents, &made.rejected);
        let Some(made) = self.tell("subscribe", answer, good) else { return };
        if self.listen(&token, &made, planned).await && planned {
            self.states(&token, &wanted).await;
        }
        let _ = self.upstream.delete(&token.secret, &made.upstream_id).await;
    }

    /// Whom the client may see.
    async fn people(&mut self, token: &Token) -> Vec<String> {
        let watch = Watch {
            agents: self.settings.agents.clone(),
            all_users: self.settings.all_users,
            queues: self.settings.queues.clone(),
            groups: self.settings.groups.clone(),
        };
        let answer = self.upstream.roster(&token.secret, &watch).await;
        let good = |people: &Vec<Person>| match people.len() {
            0 => Finding::Bad(Trouble {
                what: "nobody is to be watched: the rosters are empty".to_owned(),
                remedy: "put members into the queues or groups, or name agents; see that the ids are those of this organisation",
            }),
            n if n > CHANNEL_AGENTS_MAX * CHANNELS_MAX => Finding::Warning(Trouble {
                what: format!("{n} agents are more than one OAuth client has room for"),
                remedy: "watch the rest through a second source with an OAuth client of its own",
            }),
            n => Finding::Good(format!("{} to be watched", plural(n, "agent is", "agents are"))),
        };
        let people = self.tell("rosters", answer, good).unwrap_or_default();
        if !people.is_empty() {
            match self.upstream.definitions(&token.secret).await {
                Ok(all) => {
                    self.say("presences", Finding::Good(format!("{} presence definitions", all.len())));
                }
                Err(error) => self.say("presences", Finding::Warning(trouble("presences", error))),
            }
        }
        people.into_iter().map(|person| person.agent_id).collect()
    }

    /// How much room other programs have left.
    async fn channels_in_use(&mut self, token: &Token, planned: bool) {
        let answer = self.upstream.list(&token.secret).await;
        let good = |listed: &Vec<Listed>| {
            let room = if planned { CHANNELS_MAX } else { REALTIME_CONNECTIONS_MAX };
            if listed.len() < room {
                return Finding::Good(format!("{} in use by this OAuth client", listed.len()));
            }
            Finding::Warning(Trouble {
                what: format!("{} in use by this OAuth client, which leaves hardly any room", listed.len()),
                remedy: "give each program an OAuth client of its own; those that nobody uses end by themselves within a day",
            })
        };
        self.tell("channels", answer, good);
    }

    fn wanted(&self, people: &[String], planned: bool) -> ConnectionSpec {
        let topics = if planned {
            topics::notification_parts(&self.settings.topic_matrix)
        } else {
            topics::flatten(&self.settings.topic_matrix)
        };
        let room = if planned { CHANNEL_AGENTS_MAX } else { 1 };
        ConnectionSpec {
            agents: people.iter().take(room).cloned().collect(),
            // The configuration has been checked.
            topics: topics.unwrap_or_default(),
            heartbeat_interval: Duration::from_millis(
                u64::try_from(self.settings.heartbeat_interval_ms).unwrap_or(15_000),
            ),
        }
    }

    /// Opens the socket, has it answer a ping, and sees whether the channel is still there.
    async fn listen(&mut self, token: &Token, made: &Provisioned, planned: bool) -> bool {
        let answer = self.upstream.dial(made).await;
        let Some(mut socket) = self.tell("socket", answer, |_| Finding::Good("open".to_owned())) else {
            return false;
        };
        let (sender, asked) = (socket.sender(), Instant::now());
        let text = self.upstream.keepalive(Duration::from_secs(15)).ping_text;
        let said = text.map_or_else(|| sender.ping(bytes::Bytes::new()), |text| sender.text(text.to_owned()));
        let heard = async {
            while let Some(incoming) = socket.next().await {
                match incoming {
                    Incoming::Pong(_) => return Heard::Pong,
                    Incoming::Text(text) => match self.upstream.read(&text) {
                        Frame::Pong => return Heard::Pong,
                        Frame::Dead { .. } => return Heard::End,
                        _ => {}
                    },
                    _ => {}
                }
            }
            Heard::Nothing
        };
        let heard = timeout_at(asked + PONG_WITHIN, heard).await.unwrap_or(Heard::Nothing);
        let answered = said && heard == Heard::Pong;
        sender.close(1000, "done");
        if planned && self.is_displaced(token, made, heard == Heard::End).await {
            return false;
        }
        let finding = if answered {
            Finding::Good(format!("answered after {} ms", asked.elapsed().as_millis()))
        } else {
            Finding::Bad(Trouble {
                what: "the socket was opened and answers nothing".to_owned(),
                remedy: "look for a proxy or firewall on the way that lets the handshake through and stops what follows",
            })
        };
        self.say("ping", finding);
        answered
    }

    /// Whether another program has taken the channel away that was made a moment ago.
    async fn is_displaced(&mut self, token: &Token, made: &Provisioned, told: bool) -> bool {
        let listens = self.upstream.listens_to(&token.secret, &made.upstream_id).await;
        if !told && listens != Ok(None) {
            return false;
        }
        let trouble = Trouble {
            what: "the channel that was made a moment ago is gone".to_owned(),
            remedy: "another program uses this OAuth client and makes channels of its own, of which only 20 live: \
                     give each program an OAuth client of its own",
        };
        self.say("channel", Finding::Bad(trouble));
        true
    }

    /// Reads the present state of one agent.
    async fn states(&mut self, token: &Token, wanted: &ConnectionSpec) {
        let one: Vec<String> = wanted.agents.iter().take(1).cloned().collect();
        let answer = self.upstream.snapshot(&token.secret, &one).await;
        self.tell("state", answer, |states| {
            let presence = states.first().and_then(|state| state.state.presence.as_ref());
            match presence.and_then(|presence| presence.value.system.as_deref()) {
                Some(system) => Finding::Good(format!("{} is {system}", one.concat())),
                None => Finding::Warning(Trouble {
                    what: format!("the presence of {} is not told", one.concat()),
                    remedy: "see that the id is that of a user of this organisation, and that the client has a role in the user's division",
                }),
            }
        });
    }
}

fn trouble(step: &str, error: UpstreamError) -> Trouble {
    let remedy = remedy(step, error.kind, error.status, &error.what);
    Trouble { what: error.what, remedy }
}

/// Of the agents asked for, how many may be watched.
fn allowed(wanted: &[String], rejected: &[Rejected]) -> Finding {
    let refused: HashSet<&str> = rejected.iter().map(|rejected| rejected.agent_id.as_str()).collect();
    let Some(first) = rejected.first() else {
        return Finding::Good(format!("{} on one channel", plural(wanted.len(), "agent", "agents")));
    };
    let mut named: Vec<&str> = refused.iter().copied().collect();
    named.sort_unstable();
    named.truncate(NAMED_MAX);
    let mut what = format!(
        "{} of {} rejected ({}",
        refused.len(),
        plural(wanted.len(), "agent is", "agents are"),
        named.join(", ")
    );
    if refused.len() > named.len() {
        what.push_str(", …");
    }
    what.push_str(&format!("): {}", first.reason));
    if !first.missing_permissions.is_empty() {
        what.push_str(&format!("; missing: {}", first.missing_permissions.join(", ")));
    }
    Finding::Bad(Trouble {
        what,
        remedy: "give the OAuth client a role in the division of these agents (Admin > Integrations > OAuth > Roles)",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_agents_are_counted_and_some_are_named() {
        let rejected: Vec<_> = (0..7)
            .map(|n| Rejected {
                agent_id: format!("a{n}"),
                topic: String::new(),
                reason: "no role".to_owned(),
                missing_permissions: vec!["p".to_owned()],
            })
            .collect();
        let wanted: Vec<_> = (0..9).map(|n| format!("a{n}")).collect();
        let Finding::Bad(trouble) = allowed(&wanted, &rejected) else { panic!("it is bad") };
        assert_eq!(trouble.what, "7 of 9 agents are rejected (a0, a1, a2, a3, a4, …): no role; missing: p");
        assert_eq!(allowed(&wanted, &[]), Finding::Good("9 agents on one channel".to_owned()));
    }
}
