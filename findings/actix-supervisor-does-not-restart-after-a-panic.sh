#!/usr/bin/env bash
# actix: a Supervisor starts an actor again that stopped itself, not one whose handler panicked.
#
# Seen with actix 0.13.5. An actor under a Supervisor that calls ctx.stop() is started again, as documented ("can be restarted in case
# of failure"). If a message handler panics instead, the task that drives the actor and its Supervisor unwinds with it:
# nothing is started again, and every later send() fails with "Mailbox has closed". The runtime and its other actors live on,
# so a process looks well while a part of it is gone. Who wants a restart after a panic must build it outside of the actor
# (watch the mailbox, or abort the process).
#
# Needs cargo. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "supervised"
version = "0.1.0"
edition = "2021"

[dependencies]
actix = { version = "=0.13.5", default-features = false }
actix-rt = { version = "2", default-features = false }
TOML
cat >"$dir/src/main.rs" <<'RUST'
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Actor, Context, Handler, Message, Supervised, Supervisor};

static STARTS: AtomicUsize = AtomicUsize::new(0);

struct Worker;

impl Actor for Worker {
    type Context = Context<Self>;
    fn started(&mut self, _: &mut Self::Context) {
        STARTS.fetch_add(1, Ordering::SeqCst);
    }
}

impl Supervised for Worker {}

/// What a message asks of the worker.
enum Ask {
    Answer,
    Stop,
    Panic,
}

impl Message for Ask {
    type Result = ();
}

impl Handler<Ask> for Worker {
    type Result = ();
    fn handle(&mut self, ask: Ask, ctx: &mut Self::Context) {
        use actix::ActorContext;
        match ask {
            Ask::Answer => {}
            Ask::Stop => ctx.stop(),
            Ask::Panic => panic!("on purpose"),
        }
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    actix_rt::System::new().block_on(async {
        let stopped = Supervisor::start(|_| Worker);
        stopped.send(Ask::Stop).await.ok();
        let answer = stopped.send(Ask::Answer).await;
        println!("stopped: starts {}, then {answer:?}", STARTS.swap(0, Ordering::SeqCst));

        let panicked = Supervisor::start(|_| Worker);
        let other = Supervisor::start(|_| Worker);
        panicked.send(Ask::Answer).await.ok();
        panicked.send(Ask::Panic).await.ok();
        let answer = panicked.send(Ask::Answer).await;
        println!("panicked: starts {}, then {answer:?}", STARTS.load(Ordering::SeqCst) - 1);
        println!("another one: {:?}", other.send(Ask::Answer).await);
    });
}
RUST
seen=$(cargo run --quiet --manifest-path "$dir/Cargo.toml" 2>/dev/null)
printf 'actix 0.13.5\n%s\n' "$seen"
[ "$seen" = $'stopped: starts 2, then Ok(())\npanicked: starts 1, then Err(MailboxError(Mailbox has closed))\nanother one: Ok(())' ] || {
  echo "It is different now."
  exit 1
}
echo "As described."
