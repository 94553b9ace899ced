"""The cases of scripts/syn-check: webhooks, webhooks behind an egress proxy, and sources. Whatever they lead to, nothing may
leave for an address that is not public."""

import collections
import json
import struct
import sys
import time

import syn_world
from syn_world import API, DATABASE, PROXY, PUBLIC, PUBLIC6, Bridge, goals, sockets, turns, zone

wrong = []


def public_like(address):
    return PUBLIC6 if ":" in address else PUBLIC


def literal(address):
    return f"[{address}]" if ":" in address else address


def host_of(case, *answers):
    """A new name with these answers, one after the other."""
    name = f"{case}-{len(zone)}.syn.example"
    zone[name] = list(answers)
    return name


class Round:
    """One bridge, what it was tried with, and what left."""

    def __init__(self, name, allowed, more=None):
        self.bridge, self.allowed, self.tried = Bridge(name, more), {DATABASE, API, *allowed}, collections.Counter()

    def is_refused(self, kind, path, body):
        self.tried[kind] += 1
        status, text = self.bridge.call("POST", path, body)
        if status != 422:
            wrong.append(f"{kind}: {json.dumps(body)[:200]} was answered {status}, not 422: {text[:200]}")

    def add(self, case, path, body):
        status, text = self.bridge.call("POST", path, body)
        if status != 201:
            self.bridge.give_up(f"{case}: {status} {text.decode()}")
        return json.loads(text)["id"]

    def entries(self, query, are_enough, deadline=180):
        """Waits until the audit log has what is wanted: rows of an id and a word, by id."""
        by = time.time() + deadline
        while time.time() < by:
            found = collections.defaultdict(list)
            for line in self.bridge.sql(query).splitlines():
                subject, word = line.split("\t")
                found[subject].append(word)
            if are_enough(found):
                return found
            time.sleep(0.3)
        return found

    def end(self, did):
        self.bridge.stop()
        syns, received, others = syn_world.syns, syn_world.received, syn_world.others
        forbidden = {goal: count for goal, count in syns.items() if goal not in self.allowed}
        reached = {address: count for address, count in received.items() if address not in (PUBLIC, PUBLIC6)}
        print(f"--- {self.bridge.name}")
        for kind, count in sorted(self.tried.items()):
            print(f"{count:6} {kind}")
        print(f"{sum(self.tried.values()):6} cases; {did}")
        print(f"{syns[PUBLIC, 443] + syns[PUBLIC6, 443]:6} SYNs to the two public addresses, {syns[PROXY]} to the proxy")
        print(f"{sum(forbidden.values()):6} SYNs to forbidden ones {forbidden or ''}, {sum(others.values())} other packets "
              f"{dict(others) or ''}, {sum(reached.values())} connections {reached or ''}")
        if forbidden or others or reached:
            wrong.append(f"{self.bridge.name}: something left that must not")
        for goal in {(PUBLIC, 443), (PUBLIC6, 443), PROXY} & self.allowed:
            if not syns[goal]:
                wrong.append(f"{self.bridge.name}: nothing left for {goal}, which is allowed")


def webhooks(name, bad, urls, proxied):
    """Registers every kind of webhook for every address, and has each of them sent a test ping."""
    allowed = [PROXY] if proxied else [(PUBLIC, 443), (PUBLIC6, 443)]
    more = {"BRIDGE_EGRESS_PROXY": "http://user:password@proxy.syn.example:3128"} if proxied else {}
    this = Round(name, allowed, more)
    expected, again = {}, []

    def expect(kind, case, outcomes, body):
        webhook = this.add(case, "/v1/webhooks", {"retry_schedule_seconds": [], "timeout_ms": 4000, **body})
        this.tried[kind] += 1
        expected[webhook] = (case, outcomes)
        return webhook

    def auth(token_url):
        return {"kind": "oauth2", "client_id": "x", "client_secret": "x", "token_url": token_url}

    crm = "https://crm.syn.example/"
    for url in urls:
        this.is_refused("spelling at registration", "/v1/webhooks", {"url": url})
        this.is_refused("spelling of a token address", "/v1/webhooks", {"url": crm, "auth": auth(url)})
    goals.clear()
    for n, address in enumerate(bad):
        url = f"https://{literal(address)}/hook"
        this.is_refused("address at registration", "/v1/webhooks", {"url": url})
        this.is_refused("token address at registration", "/v1/webhooks", {"url": crm, "auth": auth(url)})
        changed = expect("address in a changed row", url, ["target_refused"], {"url": crm})
        this.bridge.sql(f"update webhook set url = '{url}', version = version + 1 where webhook_id = '{changed}'")
        public = public_like(address)
        for kind, found in (("alone", [address]), ("first", [address, public]), ("last", [public, address])):
            body = {"url": f"https://{host_of(kind, found)}/hook"}
            expect(f"name, {kind}", f"{kind} {address}", ["target_refused"], body)
            token = auth(f"https://{host_of('token', found)}/token")
            expect(f"name of a token address, {kind}", f"token {kind} {address}", ["token"], {"url": crm, "auth": token})
        body = {"url": f"https://{host_of('rebinding', [public], [address])}/hook"}
        again.append(expect("name that changes its mind", f"rebinding {address}", ["ok", "target_refused"], body))
        goals.append(url)
        status = (301, 302, 303, 307, 308)[n % 5]
        redirect = f"{crm}redirect/{status}/{n}"
        expect("redirect", f"redirect {status} to {address}", ["http_3xx"], {"url": redirect})
        expect("redirect of a token address", f"token {status} to {address}", ["token"], {"url": crm, "auth": auth(redirect)})
        if n % 4 == 0:
            token = auth(f"https://{host_of('token', [public])}/oauth/token")
            expect("token address that is good", "token", ["ok"], {"url": crm, "auth": token})
        if n % 4 == 1:
            # The bridge asks at once whether the receiver agrees, and sends no POST before it has.
            body = {"url": f"https://{host_of('handshake', [address])}/", "verification": "echo", "retry_schedule_seconds": []}
            this.add(address, "/v1/webhooks", body)
            this.tried["verification"] += 1
    query = "select webhook_id, outcome from audit_log where kind = 'DELIVERY_ATTEMPT' order by audit_id"
    for round_of, count in ((list(expected), len(expected)), (again, len(expected) + len(again))):
        for webhook in round_of:
            status, text = this.bridge.call("POST", f"/v1/webhooks/{webhook}/test")
            if status not in (200, 201, 202):
                this.bridge.give_up(f"test ping: {status} {text.decode()}")
        found = this.entries(query, lambda found, count=count: sum(map(len, found.values())) >= count)
    for webhook, (case, outcomes) in expected.items():
        if found[webhook] != outcomes:
            wrong.append(f"{name}, {case}: {found[webhook]}, not {outcomes}")
    probed = int(this.bridge.sql("select count(distinct webhook_id) from audit_log where kind = 'WEBHOOK_PROBED'"))
    if probed < this.tried["verification"]:
        wrong.append(f"{name}: only {probed} of {this.tried['verification']} receivers were asked for verification")
    this.end(f"{sum(map(len, found.values()))} attempts, {probed} handshakes")
    if proxied:
        asked = syn_world.connects
        others = {goal: count for goal, count in asked.items() if goal not in {("CONNECT", a, 443) for a in (PUBLIC, PUBLIC6)}}
        print(f"{sum(asked.values()):6} times the proxy was asked, {sum(others.values())} times for anything but CONNECT to the "
              f"public addresses {others or ''}")
        if others or not asked:
            wrong.append(f"{name}: the proxy was asked for what it must not be")


def sources(name, bad, urls):
    """Adds every kind of source for every address, and waits until each of them has tried and failed."""
    this = Round(name, [(PUBLIC, 443), (PUBLIC6, 443)])
    expected = {}

    def body(n, **more):
        protocol = ("realtime", "notifications")[n % 2]
        parts = {"topic_matrix": {"topics": ["routing:agent:state"]}} if protocol == "realtime" else {}
        return {"name": f"s{len(expected)}-{sum(this.tried.values())}", "protocol": protocol, "client_id": "x",
                "client_secret": "x", "agents": ["11111111-2222-4333-8444-555555555555"], **parts, **more}

    def expect(kind, case, entry, n, **more):
        source = this.add(case, "/v1/sources", body(n, **more))
        this.tried[kind] += 1
        expected[source] = (case, entry)
        return source

    login = "https://login.syn.example"
    for n, url in enumerate(urls):
        this.is_refused("spelling of api_url", "/v1/sources", body(n, api_url=url))
        this.is_refused("spelling of login_url", "/v1/sources", body(n, api_url=login, login_url=url))
    goals.clear()
    for n, address in enumerate(bad):
        url, public = f"https://{literal(address)}", public_like(address)
        this.is_refused("address as api_url", "/v1/sources", body(n, api_url=url))
        this.is_refused("address as login_url", "/v1/sources", body(n, api_url=login, login_url=url))
        for m, (kind, found) in enumerate((("alone", [address]), ("first", [address, public]), ("last", [public, address]))):
            host = f"https://{host_of('source', found)}"
            expect(f"api_url, {kind}", f"api_url {kind} {address}", "RECONNECT_FAILED", n + m, api_url=host, login_url=login)
            expect(f"login_url, {kind}", f"login_url {kind} {address}", "TOKEN_FAILED", n + m, api_url=login, login_url=host)
        goals.append(url + "/api/v2/oauth/token")
        redirect = f"https://crm.syn.example/redirect/{(301, 302, 303, 307, 308)[n % 5]}/{n}"
        expect("redirect of the token address", f"redirect to {address}", "TOKEN_FAILED", n, api_url=login, login_url=redirect)
        expect("redirect of api_url", f"redirect to {address}", "RECONNECT_FAILED", n, api_url=redirect, login_url=login)
        # Hosts that the answer names for the socket: a sibling of the source's, the source's own host, whose name meanwhile
        # resolves to another address, and an address.
        for m, kind in enumerate(("next", "turned", "address")):
            domain = f"s{n}.syn.example" if kind == "next" else host_of(f"socket-{kind}", [public])
            api = f"api.{domain}" if kind == "next" else domain
            zone[api], zone[f"ws.{domain}"] = [[public]], [[address]]
            if kind == "turned":
                turns[api] = [address]
            sockets[api] = {"next": f"wss://ws.{domain}/s", "turned": f"wss://{api}/s", "address": f"wss://{literal(address)}/s"}[kind]
            expect(f"socket, {kind}", f"socket {kind} {address}", "WS_INIT_ERROR", n + m, api_url=f"https://{api}", login_url=login)
        region = f"r{n}.syn.example"
        zone[f"api.{region}"] = [[address]]
        given = {**body(0), "region": region}
        source = this.add(f"region {address}", "/v1/sources", given)
        this.tried["region of protocol realtime"] += 1
        expected[source] = (f"region {address}", "TOKEN_FAILED")
        # A row that somebody changed.
        changed = expect("address in a changed row", f"changed {address}", "TOKEN_FAILED", n, api_url=login, login_url=f"{login}/x")
        this.bridge.sql(f"update source set login_url = '{url}', version = version + 1 where source_id = '{changed}'")
    query = "select source_id, kind from audit_log where kind in ('TOKEN_FAILED', 'RECONNECT_FAILED', 'WS_INIT_ERROR')"
    found = this.entries(query, lambda found: all(entry in found[source] for source, (_, entry) in expected.items()))
    for source, (case, entry) in expected.items():
        if entry not in found[source]:
            wrong.append(f"{name}, {case}: no {entry}, but {sorted(set(found[source]))}")
    opened = int(this.bridge.sql("select count(*) from audit_log where kind = 'WS_OPEN'"))
    if opened:
        wrong.append(f"{name}: {opened} sockets were opened")
    kinds = collections.Counter(kind for kinds in found.values() for kind in kinds)
    this.end(f"failed tries: {dict(kinds)}")


def main():
    syn_world.start_world()
    rows = [line.split(" ", 1) for line in open(sys.argv[1], encoding="utf-8").read().splitlines()
            if line and not line.startswith("#")]
    bad = [value for kind, value in rows if kind == "address"]
    urls = [value for kind, value in rows if kind == "url"]
    webhooks("webhooks", bad, urls, proxied=False)
    webhooks("webhooks_by_proxy", [*bad, PROXY[0]], [*urls, f"https://{PROXY[0]}:{PROXY[1]}/"], proxied=True)
    sources("sources", bad, urls)
    seen, dropped = struct.unpack("II", syn_world.sniffer.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
    print(f"{seen:6} packets seen by the counter, {dropped} missed")
    for line in wrong:
        print("WRONG:", line)
    sys.exit(1 if wrong or dropped else 0)


main()
