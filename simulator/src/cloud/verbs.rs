//! The deeds obeyed: the effect of each on the state of the simulated platform.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::deeds::{ClientState, Deed, Manner, Reach};
use super::order::Order;
use super::people::Definition;
use super::state::{Channel, Client, Shared, State};

/// Obeys; gives back how many things were touched, or a change's number.
pub(super) fn obey(shared: &Shared, deed: Deed) -> u64 {
    shared.change(|state| {
        let touched = state.obey(deed);
        state.expire();
        touched
    })
}

impl State {
    fn obey(&mut self, deed: Deed) -> u64 {
        match deed {
            Deed::Presence { agent, presence } => {
                let definition = self.definition(&presence);
                self.tell(&agent, "presence", |person, at| become_present(person, &definition, at))
            }
            Deed::Routing { agent, status } => self.tell(&agent, "routingStatus", |person, at| {
                person.routing_at = later(person.routing_at, at);
                person.routing = status;
            }),
            Deed::OutOfOffice { agent, out } => self.tell(&agent, "outofoffice", |person, at| {
                person.out_of_office_at = later(person.out_of_office_at, at);
                person.out_of_office = out;
            }),
            Deed::ActiveQueues { agent, queues } => self.tell(&agent, "queues", |person, at| {
                person.queues_at = later(person.queues_at, at);
                person.queues = queues;
            }),
            Deed::Hire { agent } => {
                self.hire(&agent);
                1
            }
            Deed::Dismiss { agent } => self.people.get_mut(&agent).map_or(0, |person| {
                person.active = false;
                1
            }),
            Deed::Rename { agent, name } => self.people.get_mut(&agent).map_or(0, |person| {
                person.name = name;
                1
            }),
            Deed::Message { agent, message } => self.people.get_mut(&agent).map_or(0, |person| {
                person.message = message;
                1
            }),
            Deed::Queue { id, members } => self.queues.insert(id, members).map_or(1, |_| 1),
            Deed::Group { id, members } => self.groups.insert(id, members).map_or(1, |_| 1),
            Deed::Hide { client, agents } => {
                self.of_client(&client, |client| client.hidden = agents.into_iter().collect())
            }
            Deed::Poison { topic } => u64::from(self.poisoned.insert(topic)),
            Deed::Define { id, system, labels } => {
                self.definitions.push(Definition { id, system, labels, custom: true });
                1
            }
            Deed::Client { client, secret } => {
                let known = self.clients.entry(client);
                known.and_modify(|client| client.secret.clone_from(&secret)).or_insert(Client {
                    secret,
                    state: ClientState::Active,
                    hidden: std::collections::HashSet::new(),
                    window: (std::time::Instant::now(), 0),
                });
                1
            }
            Deed::ClientState { client, state } => {
                if state == ClientState::Disabled {
                    self.tokens.retain(|_, token| token.client != client);
                }
                self.of_client(&client, |client| client.state = state)
            }
            Deed::ExpireTokens => {
                let tokens = self.tokens.len();
                self.tokens.clear();
                count(tokens)
            }
            Deed::RevokeTokens => {
                let tokens = self.tokens.len();
                for channel in &self.channels {
                    say(channel, &system("token_revoked", &channel.id, "user_tokens_revoked"));
                }
                self.tokens.clear();
                count(tokens)
            }
            Deed::TokenLifetime { seconds } => {
                self.token_lifetime = Duration::from_secs(seconds);
                1
            }
            Deed::ChannelLife { seconds } => {
                self.channel_life = Duration::from_secs(seconds);
                1
            }
            Deed::MoveTime { seconds } => {
                self.moved += Duration::from_secs(seconds);
                1
            }
            Deed::ExpireChannels { reach } => {
                let now = self.now();
                self.each(&reach, |channel| channel.expires = now)
            }
            Deed::Displace { reach, manner } => self.displace(&reach, manner),
            Deed::Unsubscribe { reach, agents } => self.each(&reach, |channel| {
                channel.topics.retain(|agent, _| !agents.is_empty() && !agents.contains(agent));
                channel.topic_count = channel.topics.len();
            }),
            Deed::Maintenance { reach, grace_ms } => self.each(&reach, |channel| {
                say(channel, &system("socket_closing", &channel.id, "maintenance"));
                if let Some((_, socket)) = &channel.socket {
                    let socket = socket.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(grace_ms)).await;
                        let _ = socket.send(Order::Close(1001, "maintenance".to_owned()));
                    });
                }
            }),
            Deed::Drop { reach } => self.order(&reach, || Order::Drop),
            Deed::Close { reach, code, reason } => self.order(&reach, || Order::Close(code, reason.clone())),
            Deed::Silence { reach } => self.order(&reach, || Order::Silence(true)),
            Deed::Resume { reach } => self.order(&reach, || Order::Silence(false)),
            Deed::Text { reach, text } => self.order(&reach, || Order::Say(text.clone())),
            Deed::Binary { reach, bytes } => self.order(&reach, || Order::Binary(bytes.clone())),
            Deed::Lose { reach, times } => self.each(&reach, |channel| channel.lose = times),
            Deed::Duplicate { reach, times } => self.each(&reach, |channel| channel.duplicate = times),
            Deed::Reorder { reach } => self.each(&reach, |channel| {
                channel.delayed.get_or_insert(None);
            }),
            Deed::Stale { agent, presence, seconds } => {
                let definition = self.definition(&presence);
                let Some(mut person) = self.people.get(&agent).cloned() else { return 0 };
                person.presence_at -= time::Duration::seconds(seconds);
                person.presence = definition.system;
                person.definition_id = definition.id;
                count(self.send(&person, "presence", 0, true).unwrap_or(0))
            }
            Deed::Fault { place, fault } => {
                self.faults.entry(place).or_default().push_back(fault);
                1
            }
            Deed::ClearFaults => {
                self.faults.clear();
                1
            }
        }
    }

    fn of_client(&mut self, client: &str, act: impl FnOnce(&mut Client)) -> u64 {
        self.clients.get_mut(client).map_or(0, |client| {
            act(client);
            1
        })
    }

    fn each(&mut self, reach: &Reach, mut act: impl FnMut(&mut Channel)) -> u64 {
        let mut touched = 0;
        for (place, channel) in self.channels.iter_mut().enumerate() {
            if reach.means(place, channel) {
                act(channel);
                touched += 1;
            }
        }
        touched
    }

    fn order(&mut self, reach: &Reach, order: impl Fn() -> Order) -> u64 {
        let mut touched = 0;
        self.each(reach, |channel| {
            touched +=
                u64::from(channel.socket.as_ref().is_some_and(|(_, socket)| socket.send(order()).is_ok()));
        });
        touched
    }

    /// Ends channels; what their sockets notice is a matter of manner.
    pub(super) fn displace(&mut self, reach: &Reach, manner: Manner) -> u64 {
        let mut touched = 0;
        let mut place = 0;
        let mut gone = Vec::new();
        self.channels.retain_mut(|channel| {
            let meant = reach.means(place, channel);
            place += 1;
            if meant {
                touched += 1;
                gone.extend(channel.socket.take().map(|socket| (channel.id.clone(), socket)));
            }
            !meant
        });
        for (id, (number, socket)) in gone {
            let sent = match manner {
                Manner::Silent => Ok(()),
                Manner::Mute => socket.send(Order::Silence(true)),
                Manner::Notice => {
                    socket.send(Order::Say(system("no_longer_subscribed", &id, "another_channel_subscribed")))
                }
                Manner::Close => socket.send(Order::Close(1000, "channel evicted".to_owned())),
            };
            if sent.is_ok() {
                self.ghosts.push((number, socket));
            }
        }
        touched
    }
}

impl Reach {
    fn means(&self, place: usize, channel: &Channel) -> bool {
        match self {
            Self::All => true,
            Self::Agent(agent) => channel.topics.contains_key(agent),
            Self::Channel(id) => *id == channel.id,
            Self::Nth(wanted) => *wanted == place,
        }
    }
}

fn say(channel: &Channel, text: &str) {
    if let Some((_, socket)) = &channel.socket {
        let _ = socket.send(Order::Say(text.to_owned()));
    }
}

/// News of the channel itself.
fn system(kind: &str, channel: &str, reason: &str) -> String {
    let topic = if kind == "socket_closing" {
        format!("v2.system.{kind}")
    } else {
        format!("v2.system.{kind}.{channel}")
    };
    serde_json::json!({
        "topicName": topic,
        "version": "2",
        "eventBody": {"channelId": channel, "systemTopicType": kind, "reason": reason, "message": reason},
        "metadata": {"CorrelationId": Uuid::new_v4()},
    })
    .to_string()
}

/// A time after another one, at a resolution of milliseconds.
fn later(before: OffsetDateTime, at: OffsetDateTime) -> OffsetDateTime {
    let at = at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(at);
    if at > before { at } else { before + time::Duration::MILLISECOND }
}

/// On queue an agent becomes idle, off queue the routing ends, as the platform does.
fn become_present(person: &mut super::people::Person, definition: &Definition, at: OffsetDateTime) {
    person.presence_at = later(person.presence_at, at);
    person.presence.clone_from(&definition.system);
    person.definition_id.clone_from(&definition.id);
    let routing = if definition.system == "ON_QUEUE" { "IDLE" } else { "OFF_QUEUE" };
    if person.routing != routing {
        routing.clone_into(&mut person.routing);
        person.routing_at = later(person.routing_at, at);
    }
}

fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}
